"""Plain values that pass between the loop and what watches it. Nothing here refers back up."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Position:
    """How far training has come; with the seed it fixes the data that follows."""

    step: int
    tokens: int


@dataclass(frozen=True)
class RunInfo:
    """What callbacks are told once, before the first step."""

    run_dir: Path
    config: Mapping[str, Any]
    """The resolved config as plain values."""
    strategy: str
    world_size: int
    device: str
    """"cpu" or the GPU's name."""
    model: str
    """What the model is, in words."""
    parameters: int
    first_step: int
    """1, or the step after the checkpoint that was resumed."""
    max_steps: int
    last_step: int
    """Where this run ends: `train.stop_at` or `max_steps`."""
    flops_per_token: float
    flops_formula: str
    peak_flops: float
    """Of all ranks together, per second: what MFU is measured against."""
    peak_source: str
    """Where `peak_flops` comes from, in words."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """`Samples.describe()` of the training split."""
    resumed_from: str | None = None
    taken_before: int = 0
    """The last step that an earlier start has taken, as far as is known; above `first_step` - 1, steps are done twice."""


@dataclass(frozen=True)
class StepInfo:
    """One committed optimizer step. Read one step late, so that no GPU waits for it."""

    step: int
    """1 for the first."""
    loss: float
    """Mean over the valid elements of the global batch."""
    grad_norm: float
    """Of the whole model, before clipping."""
    lr: float
    tokens: int
    """Valid elements (tokens, or rows) since the start of training."""
    step_seconds: float
    """Wall time from the end of the previous step to the end of this one."""
    data_seconds: float
    """Part of `step_seconds` spent waiting for the loader."""
    tokens_per_second: float
    """Of all ranks together."""
    mfu: float
    """Model FLOP utilisation: flops_per_token * tokens_per_second / peak_flops."""
    memory_bytes: int
    """Peak memory of rank 0 so far: allocated on the GPU, or resident on the CPU (looked at a few times a second)."""
    exchange_seconds: float = 0.0
    """Part of `step_seconds` that rank 0's host waited for the step's small all-reduce: for the slowest rank's last backward.
    What a strategy waits for within backward, and a GPU for NCCL, is not in it: that cannot be told without a sync."""


class Callback(ABC):
    """Watches a run on rank 0. It holds no trainer and cannot change a step."""

    def on_start(self, run: RunInfo) -> None:
        """Before the first step."""

    def on_step(self, info: StepInfo) -> None:
        """After each committed step."""

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        """After an evaluation: means over the whole split ("loss", and what the model adds)."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """After a checkpoint is whole."""

    def on_finish(self, status: str, facts: Mapping[str, Any]) -> None:
        """At the end of a run that did not fail: status "finished" or "stopped"; `facts` such as "sample"."""

    def close(self) -> None:
        """Always called last, also after an error."""
