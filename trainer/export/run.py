"""Export a trained model: write, check against PyTorch, measure, and only then keep."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.export import whole_or_nothing
from trainer.config import Config
from trainer.errors import RunError
from trainer.export.alone import peak_memory
from trainer.export.base import Exporter, Run, Written
from trainer.export.told import EXPORTED, FIGURES
from trainer.export.traced import Traced
from trainer.posttrain.latency import in_turns
from trainer.posttrain.load import load
from trainer.posttrain.measure import BATCHES
from trainer.writing import write_whole


def export(config: Config, run_dir: Path) -> dict[str, Any]:
    """The newest checkpoint of `run_dir` for each runtime of `config.export`, in `run_dir`/export/NAME; returns file names with their figures.

    Raises:
        RunError: the outputs of a file are further from PyTorch's than its tolerance, or it cannot be made: nothing of it is left.
    """
    traced = Traced(load(run_dir))
    (run_dir / EXPORTED / FIGURES).unlink(missing_ok=True)  # of an earlier export
    figures: dict[str, Any] = {}
    for name, part in config.export.items():
        place = run_dir / EXPORTED / name
        if place.exists():
            shutil.rmtree(place)  # of an earlier model
        with whole_or_nothing(place) as folder:
            folder.mkdir()
            for written in part.export(traced, folder):
                figures[f"{name}/{written.path.name}"] = measured(traced, part, written, config.posttrain.latency_pairs)
    write_whole(run_dir / EXPORTED / FIGURES, json.dumps(figures, indent=1))
    return figures


def measured(traced: Traced, part: Exporter, written: Written, pairs: int) -> dict[str, Any]:
    """Error, size, peak memory and, with `pairs`, latency of what was `written`.

    Raises:
        RunError: the error is above its tolerance.
    """
    run = part.opened(written.path, torch.get_num_threads())
    size = part.batch()
    every = traced.inputs(-(-part.check_samples // size) * size if size else part.check_samples)
    if size:
        batches = list(zip(*(value.split(size) for value in every), strict=True))
    else:
        batches = [tuple(every), tuple(value[:1] for value in every)]
        if any(traced.lengths()):  # another than it was exported with
            batches.append(tuple(value[:, : max(1, value.shape[1] // 2)] if length else value for value, length in zip(every, traced.lengths(), strict=True)))
    error = _error(traced, run, batches)
    if not error <= written.tolerance:
        raise RunError(
            f"export={part.name}: the outputs of {written.path.name} are {error:.3g} from PyTorch's (norm of the difference as a share of theirs), "
            f"and its tolerance is {written.tolerance:g}; nothing of it is left. A larger tolerance can be given"
        )
    return {
        "error": error,
        "tolerance": written.tolerance,
        "samples": len(every[0]),
        "bytes": sum(path.stat().st_size for path in written.path.parent.glob(f"{written.path.name}*")),  # large weights are beside it
        "peak_memory_bytes": peak_memory(part, written.path, batches[0]),
        "latency": _latency(traced, run, [size] if size else BATCHES, pairs) if pairs else {},
    }


def _error(traced: Traced, run: Run, batches: Sequence[Sequence[torch.Tensor]]) -> float:
    """The largest of `batches`; infinite where the shape is another, NaN where an output is."""
    errors = []
    for inputs in batches:
        found, expected = run(inputs).to(torch.float64), traced.expected(inputs).to(torch.float64)
        if found.shape != expected.shape:
            return math.inf
        errors.append(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))
    return float(torch.stack(errors).max())  # NaN, if one is


def _latency(traced: Traced, run: Run, sizes: Sequence[int], pairs: int) -> dict[str, Any]:
    """By batch size: of PyTorch and of the file, in turns."""
    told = {}
    for size in sizes:
        inputs = traced.inputs(size)
        before, after = in_turns([partial(traced.expected, inputs), partial(run, inputs)], pairs)
        told[str(size)] = {"pytorch": before, "exported": after}
    return told
