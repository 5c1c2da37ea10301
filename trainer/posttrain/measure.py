"""A model before and after compression, in figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from trainer.checkpoint.export import MODEL
from trainer.checkpoint.tensors import StoredTensors
from trainer.compress.form import CompressedLayer
from trainer.compress.subject import local
from trainer.config import Config
from trainer.data.base import Sample, Samples
from trainer.errors import ConfigError, RunError
from trainer.loop import Evaluation, evaluate
from trainer.models.base import Model
from trainer.models.picture import Picture
from trainer.posttrain import macs, seen, values
from trainer.posttrain.bootstrap import Estimate, estimates
from trainer.posttrain.latency import side_by_side
from trainer.posttrain.load import load
from trainer.sections import Precision
from trainer.strategies.engine import Engine

BATCHES = (1, 32)
RESAMPLED = 100
PICTURES = 3


class Spread(Samples):
    """`count` samples of a split, at even distances over all of it; all where it has no more."""

    def __init__(self, samples: Samples, count: int) -> None:
        self._samples = samples
        self._count = min(count, len(samples))
        self.spec, self.fingerprint, self.sample_bytes = samples.spec, samples.fingerprint, samples.sample_bytes
        self.preparation, self.reduction = samples.preparation, samples.reduction

    @property
    def original(self) -> Samples:
        return Spread(self._samples.original, self._count)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        return self._samples[self._place(index)]

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return self._samples.batch([self._place(index) for index in indices])

    def _place(self, index: int) -> int:
        return index * len(self._samples) // self._count


def measured(models: Sequence[tuple[Model, Path]], config: Config, held_out: Samples, device: torch.device) -> dict[str, Any]:
    """Figures "before" and "after" of two checkpoints, "difference" of each metric with its interval, "quality_loss", and "pictures". A collective.

    In the dtype of the values in the checkpoint, whatever they were trained in: what `load` gives back computes the same.
    """
    if config.train.precision is Precision.bf16:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, precision=Precision.fp32))
    evaluations: list[Evaluation] = []
    figures: list[dict[str, Any]] = []
    looks: list[list[Picture]] = []
    for model, path in models:
        engine = values.without_values(model, config, held_out, device)
        values.load(engine, path)
        found = evaluate(engine, model, held_out, batch_size(config.eval.batch_size, len(held_out)))
        assert found is not None
        evaluations.append(found)
        counted = macs.count(engine, model, held_out.batch([0]))
        figures.append({**sizes(engine, path), "macs": counted.macs, "macs_leave_out": counted.left_out})
        looks.append(seen.look(engine, model, Spread(held_out, PICTURES)))
    before, after, difference = estimates(evaluations)
    quality = config.posttrain.quality
    check_quality(quality, before)
    for each, metrics in zip(figures, (before, after), strict=True):
        each["metrics"] = _plain(metrics)
    worse = (-1 if config.posttrain.higher_is_better else 1) * difference[quality].value
    if not math.isfinite(worse):
        raise RunError(f"{quality} of the compressed model is {after[quality].value}")
    loss = worse / abs(before[quality].value) if before[quality].value else math.copysign(math.inf, worse) if worse else 0.0
    return {
        "samples": len(held_out),
        "before": figures[0],
        "after": figures[1],
        "difference": _plain(difference),
        "quality": quality,
        "higher_is_better": config.posttrain.higher_is_better,
        "quality_loss": loss,
        "pictures": seen.beside(*looks),
    }


def batch_size(most: int, samples: int) -> int:
    """Samples in a batch, so that there are `RESAMPLED` batches to draw from for an interval, or as many as there are samples."""
    return min(most, max(1, samples // RESAMPLED))


def check_quality(quality: str, metrics: Collection[str]) -> None:
    """Refuse a `posttrain.quality` that is none of the model's `metrics`."""
    if quality not in metrics:
        raise ConfigError(f"posttrain.quality={quality}: is not one of the model's metrics: {', '.join(metrics)}")


def sizes(engine: Engine, path: Path) -> dict[str, int]:
    """Of the model in the checkpoint at `path`, which `engine` holds: its parameters, packed ones one by one, and bytes as they are. A collective."""
    parameters, nonzero = _counted(engine)
    held = {id(value): value for value in (*engine.module.parameters(), *engine.module.buffers())}
    stored = StoredTensors(path).metas
    return {
        "parameters": parameters,
        "nonzero_parameters": nonzero,
        "disk_bytes": sum(meta.nbytes for name, meta in stored.items() if name.startswith(MODEL)),
        "memory_bytes": sum(value.numel() * value.element_size() for value in held.values()),
    }


def _counted(engine: Engine) -> tuple[int, int]:
    """(parameters, those that are not zero) over all ranks, tied ones once, those packed in bytes as what they stand for."""
    counted, seen = torch.zeros(2, dtype=torch.int64), set()
    for sub in engine.module.modules():
        own = {key: value for key, value in sub.named_parameters(recurse=False) if id(value) not in seen}
        seen.update(map(id, own.values()))
        held = {key: local(value.detach()) for key, value in own.items() if isinstance(value, DTensor) or dist.get_rank() == 0}
        for value in (sub.meant(held) if held and isinstance(sub, CompressedLayer) else held).values():
            counted += torch.tensor([value.numel(), int(value.count_nonzero())])
    found = counted.to(engine.device)
    dist.all_reduce(found)
    parameters, nonzero = found.tolist()
    return parameters, nonzero


def latencies(run_dirs: Sequence[Path], held_out: Samples, pairs: int) -> list[dict[str, Any]]:
    """For each model, whole in this process: by batch size its latency (see `side_by_side`)."""
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
