"""python -m trainer.drill, as a person runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.commands import ROOT, TINY, environment, run, run_without_torch
from tests.launchers.running import descendants, left, wait_until
from trainer.drill.options import FAULTS

PARTS = Path(__file__).parent / "parts"
SMALL = [*TINY, "model.sample_tokens=1", "drill.seed=5"]


def drill(*arguments: str, cwd: Path, timeout: float = 280, **extra: str) -> subprocess.CompletedProcess[str]:
    return run(*SMALL, *arguments, cwd=cwd, module="trainer.drill", timeout=timeout, **extra)


def test_a_kill_loses_nothing(tmp_path):
    """A file of its owner in the run directory stays; what the drill's runs wrote goes."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    done = drill("launcher.nproc_per_node=1", "drill.faults=[kill]", "drill.steps=8", "run_dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 5 (drill.seed=5 does the same again), 8 steps, a checkpoint every 2" in done.stdout
    document = json.loads((tmp_path / "out" / "drill.json").read_text())
    (killed,) = document["outcomes"]
    assert (document["seed"], document["steps"], document["ranks"]) == (5, 8, 1)
    assert (killed["fault"], killed["verdict"], killed["equal"], killed["wrong"]) == ("kill rank 0", "nothing lost", True, [])
    assert killed["done"].startswith("SIGKILL to rank 0 in step ")
    assert 0 <= killed["noticed"] < killed["recovered"]
    assert 0 < killed["steps_lost"] < 8
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"drill.json", "mine"}
    assert "bit-equal  ✓ nothing lost" in done.stdout


@pytest.mark.large  # three starts
def test_a_full_disk_loses_nothing(tmp_path):
    done = drill("launcher.nproc_per_node=1", "drill.faults=[full_disk]", "drill.steps=8", "run_dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (full,) = json.loads((tmp_path / "out" / "drill.json").read_text())["outcomes"]
    if full["impossible"]:  # this user may mount nothing
        assert full["impossible"].startswith("cannot mount a small disk (")
        assert f"full disk: {full['impossible']}\n" in done.stdout
    else:
        assert (full["fault"], full["verdict"], full["equal"], full["steps_lost"]) == ("full disk", "nothing lost", True, 0)


@pytest.mark.large  # its verdicts one by one: test_outcome.py, test_drill.py
def test_a_model_that_forgets_is_found_out(tmp_path):
    """Its weights after a restart are other ones, and it leaves processes behind."""
    path = os.pathsep.join([str(PARTS), str(ROOT)])
    arguments = ["--config-dir", str(PARTS / "configs"), "model=forgetful", *TINY, "model.sample_tokens=1"]
    arguments += ["launcher.nproc_per_node=1", "drill.faults=[damage]", "drill.steps=6", "run_dir=out"]
    done = run(*arguments, cwd=tmp_path, module="trainer.drill", PYTHONPATH=path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("run failed: 1 of 1 faults did harm; what these runs wrote is in out/drill\n")
    assert "damage: different: " in done.stderr
    assert " tensors of the last checkpoint are not the uninterrupted run's: model." in done.stderr
    assert done.stderr.count(": sleep 100\n") == 2  # of the run before the damage and the one after
    assert [process for process in psutil.process_iter(["cwd"]) if _is_under(tmp_path, process.info["cwd"]) and left([process])] == []
    (outcome,) = json.loads((tmp_path / "out" / "drill.json").read_text())["outcomes"]
    assert (outcome["verdict"], outcome["equal"]) == ("work lost", False)
    assert (tmp_path / "out" / "drill" / "damage" / "metrics.jsonl").exists()


def _is_under(directory: Path, cwd: str | None) -> bool:
    """Whether a process with this working directory (None: that of somebody else) belongs to the test."""
    return cwd is not None and Path(cwd).is_relative_to(directory.resolve())


@pytest.mark.large
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero1"])
def test_every_fault_under_two_ranks(strategy, tmp_path):
    done = drill(f"+strategy={strategy}", "launcher.nproc_per_node=2", "run_dir=out", cwd=tmp_path, timeout=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads((tmp_path / "out" / "drill.json").read_text())["outcomes"]
    assert [outcome["fault"] for outcome in outcomes] == ["kill rank 0", "kill rank 1", *(name.replace("_", " ") for name in FAULTS[1:])]
    assert {outcome["verdict"] for outcome in outcomes} <= {"nothing lost", "not possible here"}
    assert sum(outcome["verdict"] == "nothing lost" for outcome in outcomes) >= 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_drill(number, tmp_path):
    """Also where SIGINT was ignored when it was started, as a script does with what it starts in the background."""
    command = [sys.executable, "-m", "trainer.drill", *SMALL, "+strategy=ddp", "launcher.nproc_per_node=2", "run_dir=out"]
    command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: len(descendants(process.pid)) == 3, process)
    children = descendants(process.pid)
    os.killpg(process.pid, number)  # as a terminal does
    _, err = process.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert left(children) == []
        assert (process.returncode, err) == (1, "run failed: interrupted; nothing of the drill runs any more, and what its runs wrote is in out/drill\n")
    wait_until(lambda: left(children) == [], seconds=30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["drill.faults=[kil]"], "drill.faults: there is no fault 'kil'; did you mean 'kill'?"),
        (["-m"], "--multirun: a drill is of one config; start it once for each"),
        (["optim.lrr=1"], "unknown key 'optim.lrr'; did you mean 'optim.lr'?"),
        (["drill.steps=20", "train.max_steps=10"], "drill.steps=20: is more than train.max_steps=10; give train.max_steps=20 or more"),
        (["train.max_steps=4"], "drill.steps: at least 6 are needed, and there are only train.max_steps=4; give train.max_steps=6 or more"),
        (["launcher=ray"], "launcher=ray: the drill makes its faults on processes of this machine; use launcher=local with launcher.nnodes=1"),
    ],
)
def test_wrong_commands(arguments, message, tmp_path):
    done = run_without_torch(*SMALL, *arguments, cwd=tmp_path, module="trainer.drill")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_anyway_is_no_drill(tmp_path):
    done = run("model=mlp", "data=tabular", "data.path=nowhere.csv", "data.target=y", "run_dir=out", cwd=tmp_path, module="trainer.drill")
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("run failed: the run fails without any fault: exit status 2: error: nowhere.csv: cannot be read: No such file or directory; ")
    assert done.stderr.endswith("; all that it said is in out/drill/uninterrupted.log\n")


def test_help(tmp_path):
    done = run_without_torch("--help", cwd=tmp_path, module="trainer.drill")
    assert done.returncode == 0
    assert "usage: python -m trainer.drill" in done.stdout
    assert "kill, kill_saving, stop_evaluating, freeze, damage, full_disk, nan" in done.stdout
