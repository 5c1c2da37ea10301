"""What is said of a fault that was met, missed, or not reached because the run itself failed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.launchers.running import wait_until
from trainer.callbacks.record import RECORD, REPORT
from trainer.checkpoint.directory import MANIFEST, directory
from trainer.config import Config
from trainer.data.tabular import Tabular
from trainer.drill import faults, processes
from trainer.drill import run as runs
from trainer.drill.drill import rehearse
from trainer.drill.faults import Plan
from trainer.drill.outcome import Outcome
from trainer.drill.run import Failed, Missed, Run
from trainer.launchers.local import Local
from trainer.models.mlp import MLP
from trainer.sections import TrainConfig

STEPS = 8
NO_DATA = ": exit status 2: error: nowhere.csv: cannot be read: No such file or directory"


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Plan:
    """Of a config whose runs fail at once."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    data, train = Tabular(path="nowhere.csv", target="y"), TrainConfig(max_steps=STEPS)
    config = Config(run_dir=str(tmp_path / "uninterrupted"), model=MLP(), data=data, launcher=Local(nproc_per_node=1), train=train)
    return Plan(config, STEPS, 2, 1, directory(tmp_path / "uninterrupted", STEPS), 0.1)


@pytest.mark.parametrize(("fault", "when"), [(partial(faults.kill, rank=0), "before step "), (faults.damage, "on its way to step ")], ids=["kill", "damage"])
def test_a_run_that_fails_before_its_fault_is_no_fault_that_is_impossible(fault, when, plan, tmp_path):
    outcome = rehearse("the fault", fault, plan, 60, 5, tmp_path)
    assert (outcome.verdict, outcome.impossible) == ("failed", None)
    (wrong,) = outcome.wrong
    assert wrong.startswith(f"the run failed {when}")
    assert NO_DATA in wrong
    assert (tmp_path / "the-fault.log").exists()


def test_a_process_that_is_left_running_is_found_and_ended(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "LEFT_SECONDS", 0.1)
    started: list[subprocess.Popen[bytes]] = []

    def leave(plan: Plan, run: Run, rng: random.Random, outcome: Outcome) -> None:
        started.append(subprocess.Popen(["sleep", "100"], env=os.environ | {processes.MARK: run.mark}, start_new_session=True))
        wait_until(lambda: processes.has(started[0].pid, run.mark))  # its environment can be read a moment after it has begun
        (run.run_dir / "metrics.jsonl").touch()

    outcome = rehearse("the fault", leave, plan, 60, 5, tmp_path)
    assert (outcome.verdict, outcome.wrong) == ("failed", [f"left running: process {started[0].pid}: sleep 100"])
    assert started[0].wait(timeout=30) == -signal.SIGKILL
    assert (tmp_path / "the-fault" / "metrics.jsonl").exists()


def test_a_moment_that_did_not_come_is_missed_only_where_the_run_did_well(plan, tmp_path):
    run = Run(plan.config, 60)
    run.start()
    for missing in (lambda: run.come_to("step 3", lambda: False), lambda: run.signal(0, signal.SIGKILL)):
        with pytest.raises(Failed, match=r"^the run failed before (step 3|SIGKILL): exit status 2$"):
            missing()
    assert run.close() == []
    end(run.run_dir)
    run.start()  # says that it is over already
    with pytest.raises(Missed, match=r"^step 3 was not met: the run came to its end before$"):
        run.come_to("step 3", lambda: False)
    with pytest.raises(Missed, match=r"^rank 0 had gone before SIGKILL was sent$"):
        run.signal(0, signal.SIGKILL)
    assert run.statuses == [2, 0]
    assert run.close() == []


def end(run_dir: Path) -> None:
    """What a run leaves that is over."""
    path = directory(run_dir, STEPS)
    path.mkdir(parents=True)
    (path / MANIFEST).touch()
    (run_dir / REPORT).touch()
    (run_dir / RECORD).write_text('{"status": "finished"}')
