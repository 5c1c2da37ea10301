"""Steps whose loss or gradient norm is not finite: what is said and written down of them, and what follows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainer.callbacks.metrics import parse, to_line
from trainer.checkpoint.directory import list_whole
from trainer.errors import RunError
from trainer.state import Position
from trainer.writing import write_whole, writing

BAD_STEPS = "bad_steps.jsonl"
SHOWN = 6  # samples in a message; all are in the file
MOST_IN_PLACE = 3
"""Going back so often from the same step, each time with other samples, shows that samples are not the cause."""


@dataclass(frozen=True)
class Start:
    """From where training begins: at first, and each time that it goes back."""

    resume: str
    """As `checkpoint.resume`."""
    passed_over: tuple[int, ...] = ()
    """Batches that are left out beside those that the checkpoint names, sorted."""
    last_good: int | None = None
    """The last good step before the run went back; None: it has not."""
    times: int = 0
    """How often in a row it has gone back from `last_good`."""


class RollBack(Exception):
    """Training is to begin again from `start`, on every rank."""

    def __init__(self, start: Start):
        super().__init__(start)
        self.start = start


@dataclass(frozen=True)
class BadStep:
    """A step that moved nothing."""

    step: int
    batch: int
    """Which of the order's batches it took."""
    loss: float
    grad_norm: float
    count: int
    """Valid elements of the global batch."""
    in_a_row: int
    """Steps up to this one that moved nothing."""
    ranks: Sequence[int]
    """Those whose own loss was not finite."""
    world_size: int
    samples: Sequence[int]
    """Indices of the global batch in the training split; rank r takes the r-th of `world_size` equal parts."""

    def why(self) -> str:
        """What was not finite, and where."""
        if self.count == 0:
            return "the global batch has no label that counts"
        if len(self.ranks) == 1:
            return f"the loss is not finite on rank {self.ranks[0]}"
        if self.ranks:
            return f"the loss is not finite on {len(self.ranks)} of {self.world_size} ranks"
        return f"the gradient norm is {self.grad_norm} (the loss is {self.loss:.6g} and finite on all ranks)"

    def advice(self, run_dir: Path) -> str:
        """What a person can do about it."""
        if self.count == 0:
            return "Leave such samples out of the data, or give a larger train.global_batch_size"
        return f"Try a lower optim.lr, optim.warmup_steps, or look at the samples of this step: {self.listed(run_dir)}"

    def listed(self, run_dir: Path) -> str:
        """The first samples, and where to find all."""
        shown = ", ".join(map(str, self.samples[:SHOWN]))
        return f"{shown}, ... ({len(self.samples)} in {run_dir / BAD_STEPS})" if len(self.samples) > SHOWN else shown

    def line(self, then: str) -> dict[str, Any]:
        """The line of `bad_steps.jsonl`; `then` is what followed."""
        return {
            "step": self.step,
            "then": then,
            "why": self.why(),
            "loss": self.loss,
            "grad_norm": self.grad_norm,
            "ranks": list(self.ranks),
            "world_size": self.world_size,
            "batch": self.batch,
            "samples": list(self.samples),
        }


def note(bad: BadStep, then: str, run_dir: Path, message: str | None = None) -> None:
    """Write a line for `bad` and show `message`. On rank 0 alone."""
    with writing(run_dir / BAD_STEPS), (run_dir / BAD_STEPS).open("a", encoding="utf-8") as file:
        file.write(to_line(bad.line(then)))
    if message is not None:
        tqdm.write(message, file=sys.stderr)  # moves a bar out of the way


def keep_lines(run_dir: Path, position: Position) -> None:
    """Leave in `bad_steps.jsonl` what tells of steps up to `position`, and of the batches that it passes over. On rank 0 alone.

    The other steps are taken again, or belong to a run that this one replaces; what a kill left half written goes too.
    As runs go back, steps do not only rise in this file. It is small, and is read and written whole.

    Raises:
        RunError: it cannot be written.
    """

    def stays(line: bytes) -> bool:
        record = parse(line)
        return record is not None and (record["step"] <= position.step or record.get("batch") in position.passed_over)

    path = run_dir / BAD_STEPS
    with writing(path):
        before = path.read_bytes() if path.exists() else b""
        after = b"".join(line + b"\n" for line in before.split(b"\n") if stays(line))
        if after != before:
            write_whole(path, after.decode())


def skipped(bad: BadStep, most: int, run_dir: Path) -> str:
    """What is said of a step that is skipped, of at most `most` in a row."""
    return f"step {bad.step} is skipped on every rank, the {_nth(bad.in_a_row)} of {most} in a row: {bad.why()}; samples {bad.listed(run_dir)}"


def stop(bad: BadStep, last_good: int, run_dir: Path) -> RunError:
    """The end of a run after too many bad steps."""
    whole = list_whole(run_dir)
    kept = f"the last good checkpoint is {whole[-1]}" if whole else "there is no checkpoint yet"
    before = f", nor in the {bad.in_a_row - 1} before it" if bad.in_a_row > 1 else ""
    return RunError(
        f"step {bad.step}: {bad.why()}. No rank has moved the model in this step{before}; the last good step is {last_good}, and {kept}. {bad.advice(run_dir)}"
    )


def go_back(bad: BadStep, row: Sequence[int], last_good: int, start: Start, passed_over: Sequence[int], resume: str) -> tuple[Start, str]:
    """Where to begin again without the batches of `row`, the bad steps since `last_good`, and what is said of it.

    `start` and `passed_over` are those of the training that ends here; `resume` is its last checkpoint.

    Raises:
        RunError: the run has gone back from this step several times already, with other samples.
    """
    times = start.times + 1 if start.last_good == last_good else 1
    if times > MOST_IN_PLACE:
        raise RunError(
            f"step {bad.step}: {bad.why()}. After step {last_good} the run has gone back {MOST_IN_PLACE} times, and passed over other samples each time, "
            "so the samples are not the cause. Try a lower optim.lr, optim.warmup_steps, or an earlier checkpoint with checkpoint.resume=PATH"
        )
    again = f" (the {_nth(times)} time after step {last_good}, with other samples)" if times > 1 else ""
    where = "the start, as there is no checkpoint yet" if resume == "never" else "the last good checkpoint"
    steps = f"step {bad.step}" if len(row) == 1 else f"steps {last_good + 1} to {bad.step}"
    message = f"step {bad.step}: {bad.why()}; going back to {where}, and passing over the {len(row) * len(bad.samples)} samples of {steps}{again}"
    return Start(resume, tuple(sorted({*passed_over, *row})), last_good, times), message


def _nth(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
