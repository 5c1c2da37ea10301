"""One drill from start to end."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from trainer import own_options, signals
from trainer.callbacks.metrics import METRICS
from trainer.checkpoint.directory import directory
from trainer.config import Config
from trainer.drill import disk, faults, processes
from trainer.drill.faults import Plan
from trainer.drill.options import LEAST_STEPS, DrillOptions
from trainer.drill.outcome import Outcome
from trainer.drill.run import Failed, Missed, Overdue, Run
from trainer.errors import ConfigError, RunError
from trainer.launchers.local import Local
from trainer.run_lock import RunLock
from trainer.units import aligned
from trainer.writing import write_whole

STEPS = 12
SAVES = 4


def drill(base: Config, options: DrillOptions) -> None:
    """Rehearse the faults for the running Hydra job, whose config is `base`.

    Raises:
        ConfigError: this config, or this machine, is not one for a drill.
        RunError: work was lost, or something else is not as it should be.
    """
    steps = check(base, options)
    for number in signals.NUMBERS:  # SIGINT too: it is ignored in what a script has started in the background
        signal.signal(number, _interrupt)
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    run_dir, began = own_options.directory(base, "drill"), time.monotonic()
    with RunLock(run_dir):
        work = run_dir / "drill"
        disk.take_away(work)
        shutil.rmtree(work, ignore_errors=True)  # of a drill before
        work.mkdir()
        try:
            config = shortened(base, work / "uninterrupted", steps)
            print(f"drill     seed {seed} (drill.seed={seed} does the same again), {steps} steps, a checkpoint every {config.checkpoint.every}", flush=True)
            plan, seconds = uninterrupted(config, options.timeout)
            print(f"          uninterrupted: {seconds:.1f} s on {plan.ranks} rank{'' if plan.ranks == 1 else 's'}", flush=True)
            outcomes = []
            for title, fault in faults.choose(options.faults, plan.ranks):
                outcomes.append(rehearse(title, fault, plan, options.timeout, seed, work))
                tell(outcomes[-1])
        except KeyboardInterrupt:
            raise RunError(f"interrupted; nothing of the drill runs any more, and what its runs wrote is in {work}") from None
        lost = [outcome for outcome in outcomes if outcome.wrong]
        if not lost:
            shutil.rmtree(work)
        document = {"seed": seed, "steps": steps, "ranks": plan.ranks, "strategy": config.strategy and config.strategy.name}
        document |= {"seconds": time.monotonic() - began, "outcomes": [{**asdict(outcome), "verdict": outcome.verdict} for outcome in outcomes]}
        write_whole(run_dir / "drill.json", json.dumps(document, indent=1))
    print(f"\n{table(outcomes)}\n")
    print("\n".join([*notes(outcomes), f"record: {run_dir / 'drill.json'}"]))
    if lost:
        told = [f"{outcome.fault}: {text}" for outcome in lost for text in outcome.wrong]
        raise RunError("\n".join([f"{len(lost)} of {len(outcomes)} faults did harm; what these runs wrote is in {work}", *told]))


def check(base: Config, options: DrillOptions) -> int:
    """The number of steps.

    Raises:
        ConfigError: no drill can be held.
    """
    if not processes.PROC.joinpath("self", "environ").exists():
        raise ConfigError("python -m trainer.drill needs Linux: it finds a run's processes in /proc")
    if "WORLD_SIZE" in os.environ:
        raise ConfigError("WORLD_SIZE is set: the drill starts its own processes; run it without torchrun")
    if not isinstance(base.launcher, Local) or base.launcher.nnodes > 1:
        what = "launcher.nnodes=" + str(base.launcher.nnodes) if isinstance(base.launcher, Local) else f"launcher={type(base.launcher).__name__.lower()}"
        raise ConfigError(f"{what}: the drill makes its faults on processes of this machine; use launcher=local with launcher.nnodes=1")
    steps = min(STEPS, base.train.max_steps) if options.steps is None else options.steps
    if steps > base.train.max_steps or steps < LEAST_STEPS:
        key = f"drill.steps={steps}: is more than" if steps > base.train.max_steps else f"drill.steps: at least {LEAST_STEPS} are needed, and there are only"
        raise ConfigError(f"{key} train.max_steps={base.train.max_steps}; give train.max_steps={max(steps, LEAST_STEPS)} or more")
    return steps


def shortened(base: Config, run_dir: Path, steps: int) -> Config:
    """`base` to `steps` in `run_dir`, from fresh weights, with a checkpoint every few steps and nothing that only shows."""
    return dataclasses.replace(
        base,
        run_dir=str(run_dir),
        train=dataclasses.replace(base.train, stop_at=steps),
        eval=dataclasses.replace(base.eval, every=0, at_end=False),
        checkpoint=dataclasses.replace(base.checkpoint, every=max(1, steps // SAVES), keep=2, resume="auto"),
        run=dataclasses.replace(base.run, max_restarts=0, min_ranks=None),
        log=dataclasses.replace(base.log, progress=False),
        wandb=dataclasses.replace(base.wandb, enabled=False),
        profile=dataclasses.replace(base.profile, steps=[]),
    )


def uninterrupted(config: Config, timeout: float) -> tuple[Plan, float]:
    """The run that all others are compared with, and how long it took.

    Raises:
        RunError: it fails.
    """
    assert config.train.stop_at is not None
    assert isinstance(config.checkpoint.every, int)
    run, began = Run(config, timeout), time.monotonic()
    try:
        run.start()
        if run.wait() != 0:
            raise RunError(f"the run fails without any fault: exit status {run.statuses[-1]}{run.last_words()}; all that it said is in {run.log}")
    except Overdue as error:
        raise RunError(f"the run without any fault is {error}") from None
    finally:
        run.close()
    seconds = time.monotonic() - began
    lines = [json.loads(line) for line in (run.run_dir / METRICS).read_text(encoding="utf-8").splitlines()]
    slowest = max(line["step_seconds"] for line in lines[1:])
    steps = config.train.stop_at
    return Plan(config, steps, config.checkpoint.every, config.launcher.world_size(config), directory(run.run_dir, steps), slowest), seconds


def rehearse(title: str, fault: Callable[..., None], plan: Plan, timeout: float, seed: int, work: Path) -> Outcome:
    """Make one fault, and judge what came of it. Whatever happens, none of its processes is left."""
    outcome = Outcome(title)
    run = Run(dataclasses.replace(plan.config, run_dir=str(work / title.replace(" ", "-"))), timeout)
    run.run_dir.mkdir()
    try:
        fault(plan, run, random.Random(f"{seed} {title}"), outcome)
    except Missed as error:
        outcome.impossible = str(error)
    except (Failed, Overdue) as error:
        outcome.wrong.append(f"{error}{run.last_words()}")
    finally:
        left = run.close()
    outcome.wrong += [f"left running: {process}" for process in left]
    if not outcome.wrong:
        shutil.rmtree(run.run_dir)
    return outcome


def tell(outcome: Outcome) -> None:
    """One line for a fault that is done, on a terminal alone: the table that follows says more."""
    if sys.stdout.isatty():
        print(f"  {outcome.fault}: {outcome.verdict}", flush=True)


def table(outcomes: list[Outcome]) -> str:
    """What a terminal shows."""
    lines = [["fault", "noticed after", "recovered after", "steps lost", "final weights", "verdict"]]
    for outcome in outcomes:
        weights = {True: "bit-equal", False: "different", None: "–"}[outcome.equal]
        lost = "–" if outcome.steps_lost is None else str(outcome.steps_lost)
        sign = "✗" if outcome.wrong else "–" if outcome.impossible else "✓"
        lines.append([outcome.fault, _seconds(outcome.noticed), _seconds(outcome.recovered), lost, weights, f"{sign} {outcome.verdict}"])
    return aligned(lines, {0, 5})


def notes(outcomes: list[Outcome]) -> list[str]:
    """What was done, a line for each fault, or why it was not."""
    return [f"{outcome.fault}: {outcome.impossible or outcome.done}" for outcome in outcomes]


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
