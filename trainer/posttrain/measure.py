"""A model before and after compression, in figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.export import MODEL
from trainer.checkpoint.tensors import StoredTensors
from trainer.config import Config
from trainer.data.base import Samples
from trainer.errors import ConfigError, RunError
from trainer.loop import Evaluation, evaluate
from trainer.models.base import Model
from trainer.posttrain import values
from trainer.posttrain.bootstrap import Estimate, estimates
from trainer.posttrain.latency import side_by_side
from trainer.posttrain.load import load

BATCHES = (1, 32)


def measured(models: Sequence[tuple[Model, Path]], config: Config, held_out: Samples, device: torch.device) -> dict[str, Any]:
    """Figures "before" and "after" of two checkpoints, "difference" of each metric with its interval, and "quality_loss". A collective."""
    evaluations: list[Evaluation] = []
    figures = []
    for model, path in models:
        engine = values.without_values(model, config, held_out, device)
        values.load(engine, path)
        found = evaluate(engine, model, held_out, config.eval.batch_size)
        assert found is not None
        evaluations.append(found)
        figures.append(sizes(path))
    before, after, difference = estimates(evaluations)
    quality = config.posttrain.quality
    if quality not in before:
        raise ConfigError(f"posttrain.quality={quality}: is not one of the model's metrics: {', '.join(before)}")
    for each, metrics in zip(figures, (before, after), strict=True):
        each["metrics"] = _plain(metrics)
    worse = (-1 if config.posttrain.higher_is_better else 1) * difference[quality].value
    if not math.isfinite(worse):
        raise RunError(f"{quality} of the compressed model is {after[quality].value}")
    loss = worse / abs(before[quality].value) if before[quality].value else math.copysign(math.inf, worse) if worse else 0.0
    return {"before": figures[0], "after": figures[1], "difference": _plain(difference), "quality": quality, "quality_loss": loss}


def sizes(path: Path) -> dict[str, Any]:
    """Parameters and buffers of the model in a checkpoint."""
    stored = StoredTensors(path)
    metas = [meta for name, meta in stored.metas.items() if name.startswith(MODEL)]
    return {"parameters": sum(math.prod(meta.shape) for meta in metas), "model_bytes": sum(meta.nbytes for meta in metas)}


def latencies(run_dirs: Sequence[Path], held_out: Samples, pairs: int) -> list[dict[str, Any]]:
    """For each model, whole in this process: by batch size its latency (see `side_by_side`) and multiply-accumulates."""
    loaded = [load(run_dir) for run_dir in run_dirs]
    told: list[dict[str, Any]] = [{} for _ in loaded]
    for batch_size in BATCHES:
        batch = held_out.batch([index % len(held_out) for index in range(batch_size)])
        taken = side_by_side([(one.config.model, one.module) for one in loaded], batch, pairs)
        for each, times in zip(told, taken, strict=True):
            each[str(batch_size)] = times
    return told


def _plain(metrics: dict[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: dataclasses.asdict(estimate) for name, estimate in metrics.items()}
