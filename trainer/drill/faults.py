"""The faults: each made from outside, on a run of its own."""

from __future__ import annotations

import dataclasses
import math
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trainer.bad_steps import BAD_STEPS
from trainer.checkpoint.directory import MANIFEST, directory, newest_step, sha256
from trainer.config import Config
from trainer.drill import disk
from trainer.drill.outcome import Outcome, compare, count_lost, skipped_once
from trainer.drill.poisoned import Poisoned
from trainer.drill.run import Run
from trainer.errors import EXIT_RESUMABLE
from trainer.whereabouts import Phase

RESTARTED = "restart 1 of 1"


@dataclass(frozen=True)
class Plan:
    """What all faults have in common."""

    config: Config
    """Of the uninterrupted run; `run_dir` is its own."""
    steps: int
    every: int
    """Steps between two checkpoints."""
    ranks: int
    reference: Path
    """The uninterrupted run's last checkpoint."""
    step_seconds: float
    """Of its slowest step but the first."""


@dataclass(frozen=True)
class Moment:
    """Just before a fault."""

    time: float
    reached: int
    """The step that the furthest rank was in."""
    whole: int
    """The step of the newest whole checkpoint; 0: none."""
    pid: int | None
    """Of rank 0."""

    @staticmethod
    def of(run: Run) -> Moment:
        """Now."""
        pids = run.pids()
        return Moment(time.monotonic(), max((run.where(rank)[0] for rank in pids), default=0), newest_step(run.run_dir), pids.get(0))


def with_run(config: Config, **values: object) -> Config:
    """`config` with values of its section `run`."""
    return dataclasses.replace(config, run=dataclasses.replace(config.run, **values))


def kill(plan: Plan, run: Run, rng: random.Random, outcome: Outcome, rank: int) -> None:
    """SIGKILL to `rank` at a random moment of a random step; the launcher starts the ranks again."""
    step, delay = rng.randint(2, plan.steps - 1), rng.random() * plan.step_seconds
    run.start(with_run(run.config, max_restarts=1))
    run.come_to(f"step {step}", lambda: run.where(rank)[0] >= step)
    time.sleep(delay)
    _killed(plan, run, outcome, rank, "")


def kill_saving(plan: Plan, run: Run, rng: random.Random, outcome: Outcome) -> None:
    """SIGKILL to a random rank while a checkpoint is half written."""
    rank, nth = rng.randrange(plan.ranks), rng.randint(1, max(1, plan.steps // plan.every - 1))
    path = directory(run.run_dir, nth * plan.every)
    run.start(with_run(run.config, max_restarts=1))
    run.come_to(f"the save of step {nth * plan.every}", lambda: path.exists() and not (path / MANIFEST).exists())
    _killed(plan, run, outcome, rank, f", in the save of step {nth * plan.every}")


def _killed(plan: Plan, run: Run, outcome: Outcome, rank: int, when: str) -> None:
    fault = Moment.of(run)
    run.signal(rank, signal.SIGKILL)
    outcome.done = f"SIGKILL to rank {rank} in step {fault.reached}{when}"
    _restarted(plan, run, outcome, fault)


def freeze(plan: Plan, run: Run, rng: random.Random, outcome: Outcome) -> None:
    """SIGSTOP to a random rank at a random step, with a short `run.stall_timeout`."""
    rank, step = rng.randrange(plan.ranks), rng.randint(2, plan.steps - 1)
    timeout = max(5.0, math.ceil(10 * plan.step_seconds))
    run.start(with_run(run.config, max_restarts=1, stall_timeout=timeout))
    run.come_to(f"step {step}", lambda: run.where(rank)[0] >= step)
    fault = Moment.of(run)
    run.signal(rank, signal.SIGSTOP)
    outcome.done = f"SIGSTOP to rank {rank} in step {fault.reached}, run.stall_timeout={timeout:g}"
    _restarted(plan, run, outcome, fault)


def _restarted(plan: Plan, run: Run, outcome: Outcome, fault: Moment) -> None:
    """Follow a run whose launcher is to start the ranks again."""
    _note_noticed(run, outcome, fault.time, RESTARTED)
    _note_recovered(run, outcome, fault)
    _finished(plan, run, outcome)
    count_lost(outcome, run, fault.whole, starts=2)


def stop_evaluating(plan: Plan, run: Run, rng: random.Random, outcome: Outcome) -> None:
    """SIGTERM, as of a preemption, in an evaluation after a random step; then the same command again."""
    first = rng.randint(1, plan.steps // 2)
    run.start(dataclasses.replace(run.config, eval=dataclasses.replace(run.config.eval, every=1)))
    run.come_to("an evaluation", lambda: run.where()[0] >= first and run.where()[1] is Phase.EVALUATION)
    fault = Moment.of(run)
    run.ask_to_stop()
    outcome.done = f"SIGTERM in the evaluation after step {fault.reached}; the same command again"
    status = run.wait()
    outcome.noticed = time.monotonic() - fault.time
    if status != EXIT_RESUMABLE:
        outcome.wrong.append(f"exit status {status} instead of {EXIT_RESUMABLE}{run.last_words()}")
    if newest_step(run.run_dir) < fault.reached:
        outcome.wrong.append(f"lost: step {fault.reached} was done, and the newest checkpoint after the stop is of step {newest_step(run.run_dir)}")
    run.start()
    _note_recovered(run, outcome, fault)
    _finished(plan, run, outcome)
    count_lost(outcome, run, max(fault.whole, fault.reached), starts=2)


def damage(plan: Plan, run: Run, rng: random.Random, outcome: Outcome) -> None:
    """A flipped bit in the newest checkpoint; then the same command again."""
    saves = plan.steps // plan.every
    before = rng.randint(2, max(2, saves - 1)) * plan.every
    _first_leg(run, before)
    files = sorted(directory(run.run_dir, before).glob("*.safetensors"))
    path = rng.choice(files)
    with path.open("r+b") as file:
        place = rng.randrange(path.stat().st_size)
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << rng.randrange(8)]))
    digest = sha256(path)
    outcome.done = f"a bit of {path.parent.name}/{path.name} flipped; the same command again"
    fault = Moment.of(run)
    run.start(_to_the_end(plan, run))
    _note_noticed(run, outcome, fault.time, "is damaged")
    _note_recovered(run, outcome, fault)
    _finished(plan, run, outcome)
    aside = path.parent.with_name(f"damaged-{path.parent.name}") / path.name
    if not aside.is_file() or sha256(aside) != digest:
        outcome.wrong.append(f"the damaged checkpoint is not kept aside as {aside.parent}")
    count_lost(outcome, run, before - plan.every, starts=2)


def full_disk(plan: Plan, run: Run, rng: random.Random, outcome: Outcome) -> None:
    """No room for the checkpoints after the first ones; room again as soon as the run has said so."""
    before = rng.randint(1, max(1, plan.steps // plan.every - 2)) * plan.every
    size = sum(file.stat().st_size for file in plan.reference.iterdir())
    with disk.small_disk(run.run_dir / "checkpoints", (run.config.checkpoint.keep + 2) * size + disk.SLACK) as why_not:
        _first_leg(run, before)
        largest = max(file.stat().st_size for file in plan.reference.iterdir())
        if why_not is not None and largest < disk.LEAST_LIMITED:
            outcome.impossible = f"{why_not}, and the checkpoint is too small for a limit on the size of files"
            return
        began, ballast = time.monotonic(), run.run_dir / "checkpoints" / "ballast"
        if why_not is None:
            disk.fill(ballast)
            outcome.done = f"a small disk, full after step {before}"
            run.start(_to_the_end(plan, run))
        else:
            outcome.done = f"files limited to {largest - 1} bytes after step {before} ({why_not})"
            run.start(_to_the_end(plan, run))
            disk.limit(run.mark, largest - 1)
        _note_noticed(run, outcome, began, "could not be written")
        if why_not is None:
            ballast.unlink()
        else:
            disk.limit(run.mark, resource.RLIM_INFINITY)

        def room_made() -> bool:
            return newest_step(run.run_dir) > before

        again = not run.until(room_made) and run.statuses[-1] == 1 and run.said("this was the last save")
        if again:  # a run of few short steps ends before there is room
            outcome.done += "; the same command again, as the last save had failed too"
            run.start()
        if run.until(room_made):
            outcome.recovered = time.monotonic() - began
        _finished(plan, run, outcome)
        count_lost(outcome, run, before, starts=3 if again else 2)


def nan(plan: Plan, run: Run, rng: random.Random, outcome: Outcome) -> None:
    """A loss that is NaN at a random step on a random rank. The weights cannot be the uninterrupted run's: one step is missing."""
    rank, at = rng.randrange(plan.ranks), rng.randint(2, plan.steps - 1)
    model = Poisoned(base=run.config.model, run_dir=str(run.run_dir), at=at, on_rank=rank)
    train = dataclasses.replace(run.config.train, max_bad_steps=max(1, run.config.train.max_bad_steps))
    outcome.done = f"the loss of rank {rank} is NaN in step {at}, train.max_bad_steps={train.max_bad_steps}"
    run.start(dataclasses.replace(run.config, model=model, train=train))
    run.come_to(f"step {at}", lambda: run.where(rank)[0] >= at)
    began = time.monotonic()
    if run.until((run.run_dir / BAD_STEPS).exists):
        outcome.noticed = time.monotonic() - began
    else:
        outcome.wrong.append("the run has not noticed it")
    if run.until(lambda: run.where()[0] > at):
        outcome.recovered = time.monotonic() - began
    if run.wait() != 0:
        outcome.wrong.append(f"exit status {run.statuses[-1]}{run.last_words()}")
    outcome.wrong += skipped_once(run.run_dir, plan.reference, plan.steps, at, rank)
    count_lost(outcome, run, 0, starts=1)


def _first_leg(run: Run, step: int) -> None:
    """Train to `step`, where the checkpoint is whole."""
    run.start(dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, stop_at=step)))
    run.succeeded(f"on its way to step {step}, before the fault")


def _to_the_end(plan: Plan, run: Run) -> Config:
    return dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, stop_at=plan.steps))


def _note_noticed(run: Run, outcome: Outcome, began: float, text: str) -> None:
    if run.until(lambda: run.said(text)):
        outcome.noticed = time.monotonic() - began
    else:
        outcome.wrong.append(f"the run has not said {text!r}")


def _note_recovered(run: Run, outcome: Outcome, fault: Moment) -> None:
    """Wait until a later start takes a later step than before the fault, or comes to its end."""
    if run.until(lambda: run.where()[0] > fault.reached and run.pids().get(0) != fault.pid) or run.statuses[-1] == 0:
        outcome.recovered = time.monotonic() - fault.time


def _finished(plan: Plan, run: Run, outcome: Outcome) -> None:
    """See that the run comes to its end, with the uninterrupted run's weights."""
    if run.wait() != 0:
        outcome.wrong.append(f"exit status {run.statuses[-1]}{run.last_words()}")
    compare(outcome, run, plan.reference, plan.steps)


def choose(names: list[str], ranks: int) -> Iterator[tuple[str, Callable[[Plan, Run, random.Random, Outcome], None]]]:
    """The faults of these names, each with the title of its row; a kill for each rank."""
    single = {function.__name__: function for function in (kill_saving, stop_evaluating, freeze, damage, full_disk, nan)}
    for name in names:
        if name == "kill":
            for rank in range(ranks):
                yield f"kill rank {rank}", partial(kill, rank=rank)
        else:
            yield name.replace("_", " "), single[name]
