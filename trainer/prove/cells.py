"""Runs the reference, the control and every cell, and compares."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config import Config
from trainer.launchers.local import Local
from trainer.prove.compare import LOSS_BAND, Apart, What, buffer_difference, compare, final_differences
from trainer.prove.diagnose import diagnose
from trainer.prove.fork import RANK_VARIABLES, Forked
from trainer.prove.join import joined
from trainer.prove.plan import Cell
from trainer.prove.reference import Reference
from trainer.prove.resume import Resumed
from trainer.prove.resume import judge as judge_resumed
from trainer.prove.task import Task
from trainer.prove.trace import CROSSED, FINAL, RESUMED, TASK, Trace

if TYPE_CHECKING:
    from trainer.distributed import Place


@dataclass
class Row:
    """A cell's outcome."""

    strategy: str
    ranks: int
    status: str
    """One of plan.STATUS."""
    reason: str = ""
    """What differs first and why, or why the cell did not run: one or two sentences."""
    seconds: float = 0.0
    optimizers: dict[str, Apart] = field(default_factory=dict)
    resumed: dict[str, Resumed] = field(default_factory=dict)
    """Under each optimizer; empty where nothing was resumed."""
    trace: str = ""
    """Traceback or output of a cell that failed."""


def start(cell: Cell, reference: Reference, directory: Path, timeout: float, resume_at: int) -> Forked:
    """Fork the ranks of `cell`."""
    task = Task(reference.optimizers, reference.directory, resume_at)
    config = cell.config
    assert config is not None
    if not isinstance(config.launcher, Local):
        return Forked(1, lambda _: launch_elsewhere(config, task, directory), directory, timeout)

    def body(place: Place) -> None:
        from trainer.prove.rank import run_cell

        with joined(config, place, timedelta(seconds=timeout)) as device:
            run_cell(config, task, directory, device)

    return Forked(cell.ranks, body, directory, timeout)


def launch_elsewhere(config: Config, task: Task, directory: Path) -> None:
    """Run the ranks where another launcher runs them (Ray); this process is a fork, and not a rank."""
    for name in RANK_VARIABLES:
        os.environ.pop(name, None)
    task.save(directory / TASK)
    config.launcher.launch(dataclasses.replace(config, run_dir=str(directory)), "trainer.prove.rank:run_launched")


def run(cells: list[Cell], reference: Reference, directory: Path, timeout: float, cores: int, tell: Callable[[Row], None], resume_at: int = 0) -> list[Row]:
    """Run all cells and compare each; rows are in the order of `cells`.

    At a time run as many ranks as there are cores, or as the largest cell has: what one imports or waits for, others use.
    `tell` is called with each row when it is done. With `resume_at`, each is saved after that step and gone on from, too.
    """
    rows: dict[int, Row] = {}
    for index, cell in enumerate(cells):
        if cell.config is None:
            rows[index] = Row(cell.strategy, cell.ranks, cell.status, cell.reason)
            tell(rows[index])
    room = max([cores, *(cell.ranks for cell in cells)])
    waiting = [index for index in range(len(cells)) if index not in rows]
    running: dict[int, Forked] = {}
    try:
        while waiting or running:
            for index in list(waiting):
                if not running or sum(forked.ranks for forked in running.values()) + cells[index].ranks <= room:
                    running[index] = start(cells[index], reference, _directory(directory, cells[index]), timeout, resume_at)
                    waiting.remove(index)
            for index in [index for index, forked in running.items() if forked.done()]:
                rows[index] = judge(cells[index], running.pop(index), reference, _directory(directory, cells[index]), resume_at)
                tell(rows[index])
            time.sleep(0.01)
    finally:
        for forked in running.values():
            forked.kill()
    return [rows[index] for index in range(len(cells))]


def _directory(directory: Path, cell: Cell) -> Path:
    return directory / f"{cell.strategy}-{cell.ranks}"


def judge(cell: Cell, forked: Forked, reference: Reference, directory: Path, resume_at: int) -> Row:
    """What a cell that has ended shows."""
    row = Row(cell.strategy, cell.ranks, "equal", seconds=forked.seconds)
    failure = forked.failure()
    if failure is not None:
        row.status, row.reason, row.trace = "failed", f"rank {failure.rank}: {failure.line}", failure.trace
        return row
    assert cell.config is not None
    micro = cell.config.train.micro_batch_size or 1
    accumulation = cell.config.train.global_batch_size // cell.ranks // micro
    for name, optim in reference.optimizers.items():
        trace, base = Trace.load(directory / name), reference.traces[name]
        final = final_differences(directory / name, reference.directory / name, trace, base)
        apart = compare(trace, base, final, optim.name.name, reference.same_buffers[name])
        row.optimizers[name] = apart
        if apart.findings and row.status == "equal":
            row.status = "different"
            row.reason = explain(name, apart, diagnose(apart.findings[0], trace, base, accumulation))
        if resume_at:
            resumed = judge_resumed(directory / name, reference.directory / name, trace, base, resume_at, optim.name.name, reference.same_buffers[name])
            row.resumed[name] = resumed
            if resumed.problem and row.status == "equal":
                row.status, row.reason = "different", f"under {name}, {resumed.problem}"
            for made in (RESUMED, CROSSED, "checkpoints"):
                shutil.rmtree(directory / name / made)
        (directory / name / FINAL).unlink()
    return row


def explain(optimizer: str, apart: Apart, cause: str) -> str:
    """The first difference in words, with the first parameter."""
    first = apart.findings[0]
    text = f"under {optimizer}, differs first at step {first.step}: {first.text}"
    text += f"; {cause}" if cause else ""
    text += "" if text.endswith("?") else "."
    parameter = next((finding for finding in apart.findings if finding.what == What.PARAMETERS), None)
    if parameter is None:
        return f"{text} No parameter is outside its band."
    return text if parameter is first else f"{text} First parameter that differs, at step {parameter.step}: {parameter.name}."


def leave_out_touchy_buffers(reference: Reference, control: Path) -> None:
    """Keep, for comparison, the buffers that the control run left alike: others depend on how micro-batches are cut."""
    for name, base in reference.traces.items():
        trace = Trace.load(control / name)
        same = [buffer for buffer in base.buffers if all(buffer_difference(trace, base, step, buffer) <= LOSS_BAND for step in range(len(base.digests)))]
        reference.same_buffers[name] = frozenset(same)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
