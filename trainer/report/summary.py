"""metrics.jsonl and evals.jsonl read once: the curves and the totals of a run."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.callbacks.metrics import EVALS, LAST_STEPS, METRICS, last_recorded, read
from trainer.errors import ConfigError
from trainer.report.curves import Envelope, Point

CURVES = ("loss", "grad_norm", "lr", "tokens_per_second", "memory_bytes", "step_seconds", "data_seconds")

Runs = list[list[Point]]


@dataclass
class Summary:
    """What a run directory's numbers come to. Sums are over the recorded, committed steps."""

    first: int = 0
    last: int = 0
    """First and last step recorded; 0 and 0: none was."""
    steps: int = 0
    tokens: int = 0
    """Since the start of training."""
    seconds: float = 0.0
    """In steps, from the end of one to the end of the next."""
    data_seconds: float = 0.0
    tokens_timed: float = 0.0
    """Tokens of the recorded steps: tokens_per_second x step_seconds, summed."""
    mfu_seconds: float = 0.0
    """mfu x step_seconds, summed over the steps that have an MFU."""
    mfu_timed: float = 0.0
    memory_bytes: int = 0
    skipped: int = 0
    """Steps that moved nothing, because their loss or gradient norm was not a finite number."""
    recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=LAST_STEPS))
    """(loss, tokens) of the last steps that moved the model."""
    curves: dict[str, Runs] = field(default_factory=dict)
    evals: dict[str, Runs] = field(default_factory=dict)
    last_eval: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens_timed / self.seconds if self.seconds else None

    @property
    def mfu(self) -> float | None:
        return self.mfu_seconds / self.mfu_timed if self.mfu_timed else None

    @property
    def loss(self) -> float | None:
        """Mean of the last steps, weighted with their tokens."""
        tokens = sum(count for _, count in self.recent)
        return sum(loss * count for loss, count in self.recent) / tokens if tokens else None


def summarise(run_dir: Path) -> Summary:
    """Read the numbers of `run_dir` in one pass and in bounded memory.

    Raises:
        ConfigError: there is no metrics.jsonl.
        RunError: a line in the middle of a file is broken.
    """
    path = run_dir / METRICS
    if not path.is_file():
        raise ConfigError(f"{run_dir}: there is no {METRICS} there. Right would be a run directory: what `run_dir` was when the run began")
    summary = Summary()
    span = _span(path)
    if span is None:
        return summary
    summary.first, summary.last = span
    curves = {key: Envelope(*span) for key in CURVES}
    for record in read(path):
        if record["step"] > summary.last:
            break  # written since the span was read: the run is still going
        _count(summary, record)
        for key, curve in curves.items():
            curve.add(record["step"], record.get(key))
    summary.curves = {key: curve.runs() for key, curve in curves.items()}
    _read_evals(summary, run_dir / EVALS)
    return summary


def _span(path: Path) -> tuple[int, int] | None:
    """First and last step in `path`."""
    first = next(read(path), None)
    if first is None:
        return None
    return first["step"], last_recorded(path) or first["step"]


def _count(summary: Summary, record: dict[str, Any]) -> None:
    seconds = record.get("step_seconds") or 0.0
    tokens = (record.get("tokens_per_second") or 0.0) * seconds
    summary.steps += 1
    summary.tokens = record.get("tokens", summary.tokens)
    summary.seconds += seconds
    summary.data_seconds += record.get("data_seconds") or 0.0
    summary.tokens_timed += tokens
    if record.get("mfu") is not None:
        summary.mfu_seconds += record["mfu"] * seconds
        summary.mfu_timed += seconds
    summary.memory_bytes = max(summary.memory_bytes, record.get("memory_bytes") or 0)
    if record.get("skipped"):
        summary.skipped += 1
    elif record.get("loss") is not None:
        summary.recent.append((record["loss"], tokens))


def _read_evals(summary: Summary, path: Path) -> None:
    if not path.is_file():
        return
    curves: dict[str, Envelope] = {}
    for record in read(path):
        summary.last_eval = record
        for key, value in record.items():
            if key != "step":
                curves.setdefault(key, Envelope(summary.first, summary.last)).add(record["step"], value)
    summary.evals = {key: curve.runs() for key, curve in curves.items()}
