"""Faults made for real on two ranks: the run ends by itself, and the culprit and the kind of fault are named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.commands import ROOT, environment
from tests.launchers.running import descendants, finish, left, run, start, steps_done, wait_until

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainer")
TWO = ["+strategy=ddp", "launcher.nproc_per_node=2", "train.max_steps=12"]


def doctor(run_dir) -> tuple[int, str, str]:
    """`python -m trainer.doctor` where importing torch fails."""
    code = "import runpy, sys; sys.modules['torch'] = None; runpy.run_module('trainer.doctor', run_name='__main__', alter_sys=True)"
    done = subprocess.run([sys.executable, "-c", code, str(run_dir)], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("trouble", "kind", "sentence", "stack"),
    [
        (["model.how=stop"], "stopped process", "rank 1 is stopped (SIGSTOP, or a debugger): process ", None),
        pytest.param(
            ["model.how=skip", "model.barrier=true"],
            "skipped collective",
            "rank 1 has left out barrier, which is collective ",
            "_engine_run_backward",
            marks=pytest.mark.large,  # in short below
        ),
        pytest.param(["model.how=sleep"], "slow loader", "rank 1 waits for its loader (slow data) in step ", "trouble.py", marks=pytest.mark.large),
        pytest.param(["model.how=hang"], "hanging rank", "rank 1 hangs in step 5 (forward/backward) since ", "trouble.py", marks=pytest.mark.large),
        pytest.param(["model.how=leave"], "unequal batches", "rank 1 has left the training loop after step ", "save.py", marks=pytest.mark.large),
    ],
    ids=["stop", "skip", "sleep", "hang", "leave"],
)
def test_a_run_that_stands_still_is_ended_with_the_cause(trouble, kind, sentence, stack, tmp_path):
    process = start(*TWO, "run_dir=x", "checkpoint.every=3", "checkpoint.overlap=false", "model.at=5", "run.stall_timeout=2", *trouble, cwd=tmp_path)
    wait_until(lambda: len(descendants(process.pid)) == 2, process)
    children = descendants(process.pid)
    status, _, err = finish(process)
    assert status == 1
    assert err.count(f"\n{kind}: {sentence}") == 1
    assert f"\nrun failed: {sentence}" in err
    assert "(run.stall_timeout=2), so the run was ended; run the same command to go on from the last checkpoint\n" in err
    assert left(children) == []
    _, _, of_culprit = err.partition("\nstack of rank 1:")
    assert (stack in of_culprit) if stack else ("rank 1 has no stack: a stopped process cannot answer" in err)
    assert len(list((tmp_path / "x" / "checkpoints").glob("*/manifest.json"))) == 1
    status, out, _ = doctor(tmp_path / "x")
    assert status == 0
    assert f"\nover: {sentence}" in out


def test_a_stall_is_restarted_from_the_last_checkpoint(tmp_path):
    trouble = ["model.how=skip", "model.barrier=true", "model.at=6", f"model.once={tmp_path}/once", "run.stall_timeout=2"]
    status, _, err = run(*TWO, "run_dir=x", "checkpoint.every=3", "checkpoint.overlap=true", "run.max_restarts=1", *trouble, cwd=tmp_path)
    assert status == 0, err
    assert "rank 1 has left out barrier" in err
    assert "restart 1 of 1 from the last checkpoint" in err
    assert steps_done(tmp_path / "x") == 12
    status, out, _ = doctor(tmp_path / "x")
    assert status == 0
    assert out.endswith("\nover: the run is over: finished at step 12\n")


@pytest.mark.large
def test_a_run_of_which_every_process_is_stopped_is_ended_by_the_launcher(tmp_path):
    status, _, err = run("+strategy=single", "run_dir=x", "model.how=stop", "model.on_rank=0", "run.max_restarts=1", "run.stall_timeout=2", cwd=tmp_path)
    assert status == 1
    assert "\nrun failed: rank 0 is stopped (SIGSTOP, or a debugger): process " in err
    assert "restart 1 of 1 from the last checkpoint\n" in err


@pytest.mark.large
@pytest.mark.parametrize("launcher", ["torchrun", "ray"])
def test_other_launchers_end_a_stall_too(launcher, tmp_path):
    trouble = ["run_dir=x", "train.max_steps=12", "model.how=skip", "model.barrier=true", "model.at=6", "run.stall_timeout=2"]
    if launcher == "ray":
        pytest.importorskip("ray")
        status, _, err = run("+strategy=ray", "launcher.nproc_per_node=2", *trouble, cwd=tmp_path)
    else:
        status, _, err = run("strategy=ddp", *trouble, cwd=tmp_path, python=TORCHRUN)
    assert status == 1
    assert "skipped collective: rank 1 has left out barrier, which is collective " in err
    assert "so the run was ended; run the same command to go on from the last checkpoint" in err


def test_a_healthy_run_and_one_that_was_killed(tmp_path):
    process = start(*TWO[:2], "run_dir=x", "train.max_steps=100000", "model.seconds=0.05", cwd=tmp_path)
    wait_until(lambda: steps_done(tmp_path / "x") >= 20, process)
    status, out, _ = doctor(tmp_path / "x")
    assert status == 0
    assert "\nhealthy: the run is healthy and goes on: rank " in out
    ranks = descendants(process.pid)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: left(ranks) == [], seconds=30)
    status, out, _ = doctor(tmp_path / "x")
    assert status == 0
    assert "\ndead rank: the run was killed: no process of its 2 ranks is left; they were in step " in out


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("kill", "dead rank: rank 1 is dead: its process "),
        pytest.param("memory", "out of memory: rank 1 ran out of memory in step 3 (", marks=pytest.mark.large),
    ],
    ids=["kill", "memory"],
)
def test_a_rank_that_died_or_ran_out_of_memory(how, sentence, tmp_path):
    status, _, _ = run(*TWO, "run_dir=x", f"model.how={how}", cwd=tmp_path)
    assert status == 1
    status, out, _ = doctor(tmp_path / "x")
    assert status == 0
    assert f"\n{sentence}" in out


def test_a_directory_that_is_no_run(tmp_path):
    status, out, err = doctor(tmp_path)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {tmp_path}: is no run directory: there is nothing in ")
