"""Plain values that pass between the loop and what watches it. Nothing here refers back up."""

from __future__ import annotations

import time
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Position:
    """How far training has come; with the seed it fixes the data that follows."""

    step: int
    tokens: int
    """Valid elements of the steps that moved the model."""
    skipped: int = 0
    """Steps up to `step` that moved nothing."""
    passed_over: tuple[int, ...] = ()
    """Batches of the data's order that no step takes, sorted (see `trainer.order.batch_of`)."""

    @property
    def updates(self) -> int:
        """Steps that moved the model: the optimizer's own count."""
        return self.step - self.skipped


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
    passed_over: tuple[int, ...] = ()
    """Batches of the data's order (1 is the first) that no step takes, because their steps were bad and the run went back."""
    taken_before: int = 0
    """The last step that an earlier start has taken, as far as is known; above `first_step` - 1, steps are done twice."""
    anew: bool = False
    """Whether this start replaces the run that `run_dir` has (`checkpoint.resume=never`). Not so one that goes back to the first step."""
    began: float = field(default_factory=time.time)
    """When this start began, in seconds since 1970."""


class StepInfo(NamedTuple):
    """One committed optimizer step, or one that was skipped. Read one step late, so that no GPU waits for it."""

    step: int
    """1 for the first."""
    loss: float
    """Mean over the valid elements of the global batch."""
    grad_norm: float
    """Of the whole model, before clipping."""
    lr: float
    tokens: int
    """Valid elements (tokens, or rows) of the steps that moved the model since the start of training."""
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
    skipped: bool = False
    """The loss or the gradient norm was not finite, so that this step moved nothing."""


class Callback(ABC):
    """Watches a run on rank 0. It holds no trainer and cannot change a step."""

    def on_start(self, run: RunInfo) -> None:
        """Before the first step."""

    def on_steps(self, infos: Sequence[StepInfo]) -> None:
        """After one or more steps that were committed or skipped, in their order; before anything later is told."""

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        """After an evaluation: means over the whole split ("loss", and what the model adds)."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """Before a checkpoint is written: what it does not repeat (lines up to `step`) must outlast what it outlasts."""

    def on_checkpoint_end(self, step: int) -> None:
        """Training goes on: the checkpoint is written, or, with `checkpoint.overlap`, copied to be written beside training."""

    def on_finish(self, status: str, facts: Mapping[str, Any]) -> None:
        """At the end of a run that did not fail: status "finished", "stopped", or "preempted" (before its last evaluation); `facts` such as "sample"."""

    def close(self) -> None:
        """Always called last, also after an error."""
