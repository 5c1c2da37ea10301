"""The local launcher with real processes: who fails is named, who is asked to stop stops, and nobody is left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.commands import ROOT, TINY, environment, free_port, run_without_torch
from tests.launchers.running import descendants, finish, first_steps, left, losses, run, start, steps_done, wait_until
from trainer import ledger
from trainer.doctor.record import live_path
from trainer.run_lock import LOCK, RunLock

TWO = "launcher.nproc_per_node=2"
LONG = ["train.max_steps=100000", "model.seconds=0.02"]


def test_a_killed_rank_is_named_and_the_run_goes_on_from_the_last_checkpoint(tmp_path):
    """From that of this launch, also where another would begin anew."""
    steps = ["+strategy=ddp", TWO, "train.max_steps=6", "checkpoint.every=2", "checkpoint.resume=never"]
    status, _, err = run(*steps, "run_dir=killed", "model.how=kill", "model.at=6", f"model.once={tmp_path}/once", "run.max_restarts=1", cwd=tmp_path)
    assert status == 0, err
    assert "rank 1 died: it was ended by SIGKILL (out of memory? the kernel's log says); the other ranks were ended\n" in err
    assert "restart 1 of 1 from the last checkpoint" in err
    assert first_steps(tmp_path / "killed") == [start.first_step for start in ledger.read(tmp_path / "killed")] == [1, 5]
    assert run(*steps, "run_dir=whole", cwd=tmp_path)[0] == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_a_crash_in_native_code_says_where(tmp_path):
    status, _, err = run("+strategy=ddp", TWO, "run_dir=run", "model.how=crash", cwd=tmp_path)
    assert status == 1
    assert "Fatal Python error: Segmentation fault" in err
    assert "_misbehave\n" in err
    assert "rank 1 died: it was ended by SIGSEGV; the other ranks were ended\n" in err


@pytest.mark.large
def test_a_rank_that_dies_again_without_progress_is_left_out(tmp_path):
    """Rank 1 dies in the second step of each start, from the checkpoint of step 4; there is no other until step 8."""
    steps = ["+strategy=fsdp", TWO, "train.max_steps=8", "checkpoint.every=4", "checkpoint.keep=9"]
    assert run(*steps, "run_dir=whole", cwd=tmp_path)[0] == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / "step-00000008")
    status, _, err = run(*steps, "run_dir=killed", "model.how=kill", "model.at=2", "run.max_restarts=2", "run.min_ranks=1", cwd=tmp_path)
    assert status == 0, err
    assert err.count("rank 1 died: it was ended by SIGKILL") == 2
    assert "restart 1 of 2 from the last checkpoint\n" in err
    assert "restart 2 of 2 from the last checkpoint, on 1 rank instead of 2\n" in err
    for one, other in zip(losses(tmp_path / "killed"), losses(tmp_path / "whole"), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    sessions = json.loads((tmp_path / "killed" / "run.json").read_text())["sessions"]
    assert [(start["first_step"], start["world_size"]) for start in sessions] == [(1, 2), (5, 1)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run.min_ranks=3", "run.max_restarts=1"], "run.min_ranks=3: is more than the 2 processes; give at most 2, or start more"),
        (["run.min_ranks=1"], "run.min_ranks=1: has no effect with run.max_restarts=0; give run.max_restarts=N"),
        (["run.min_ranks=1", "launcher=ray"], "run.min_ranks=1: has no effect with run.max_restarts=0; give run.max_restarts=N"),
    ],
)
def test_fewer_ranks_that_cannot_be(arguments, told, tmp_path):
    assert run("+strategy=ddp", TWO, *arguments, cwd=tmp_path) == (2, "", f"error: {told}\n")


@pytest.mark.large  # one that is refused at once is in tests/test_run_lock
def test_a_second_run_is_refused_also_after_a_restart_but_not_to_hear_that_the_run_is_finished(tmp_path):
    trouble = ["model.how=kill", f"model.once={tmp_path}/once", "run.max_restarts=1"]
    process = start("+strategy=ddp", TWO, "run_dir=x", *LONG, *trouble, cwd=tmp_path)
    for moment in ((tmp_path / "x" / LOCK).exists, lambda: (tmp_path / "once").exists() and steps_done(tmp_path / "x") >= 5):
        wait_until(moment, process)
        second = run_without_torch(*TINY, "run_dir=x", cwd=tmp_path)
        assert second.returncode == 2
        assert second.stderr.startswith(f"error: run_dir=x: another run is at work in it: process {process.pid} of ")
    process.terminate()
    status, _, err = finish(process)
    assert (status, err.count("restart 1 of 1")) == (75, 1), err
    assert not (tmp_path / "x" / LOCK).exists()
    over = ["+strategy=ddp", TWO, "run_dir=x", f"train.stop_at={steps_done(tmp_path / 'x') + 1}", "train.max_steps=100000"]
    assert run(*over, cwd=tmp_path)[0] == 0
    with RunLock(tmp_path / "x"):
        status, out, _ = run(*over, cwd=tmp_path)
    assert (status, out.startswith("this run has come to train.stop_at=")) == (0, True)


def test_a_rank_that_raises_is_named_with_its_traceback(tmp_path):
    status, _, err = run("+strategy=ddp", TWO, "run_dir=x", "model.how=raise", cwd=tmp_path)
    assert status == 1
    assert "run failed: rank 1 failed: ValueError: a mistake in the model\n\nTraceback (most recent call last):" in err
    assert 'raise ValueError("a mistake in the model")' in err
    assert err.count("Traceback") == 1


def test_an_explained_error_of_one_rank_is_the_run_s_without_a_restart(tmp_path):
    status, _, err = run("+strategy=ddp", TWO, "run_dir=x", "model.how=config", "run.max_restarts=3", cwd=tmp_path)
    assert (status, err) == (2, "error: model.how=config: does not do\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_is_an_agreed_stop(number, tmp_path):
    process = start("+strategy=ddp", TWO, "run_dir=x", *LONG, cwd=tmp_path)
    wait_until(lambda: steps_done(tmp_path / "x") >= 2, process)
    children = descendants(process.pid)
    os.killpg(process.pid, number)  # as a terminal does
    status, _, err = finish(process)
    assert status == 75, err
    assert err.startswith("stopped, resumable: at step ")
    assert err.count("\n") == 1
    assert len(list((tmp_path / "x" / "checkpoints").glob("*/manifest.json"))) == 1
    assert left(children) == []


def test_a_signal_before_anything_is_imported_is_an_agreed_stop_too(tmp_path):
    process = start("+strategy=ddp", TWO, "run_dir=x", *LONG, cwd=tmp_path)
    wait_until(lambda: len(descendants(process.pid)) == 2, process)
    wait_until(lambda: all(_catches(child, signal.SIGTERM) for child in descendants(process.pid)), process)
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert status == 75, err
    assert re.match(r"stopped, resumable: (before training began|at step \d+)", err)  # where not all ranks had met yet, or where they had


def _catches(process: psutil.Process, number: int) -> bool:
    with open(f"/proc/{process.pid}/status") as file:
        caught = next(line for line in file if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_two_interrupts_end_it_at_once_and_its_sweep(tmp_path):
    process = start("-m", "+strategy=ddp", TWO, "run_dir=x", *LONG, "model.seconds=1000,1001", cwd=tmp_path)
    wait_until(lambda: (tmp_path / "x" / "model.seconds=1000" / "config.yaml").exists(), process)
    children = descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    with pytest.raises(Exception, match="timed out"):
        process.communicate(timeout=1)  # once only asks, and this step takes a while
    os.killpg(process.pid, signal.SIGINT)
    status, _, err = finish(process, timeout=20)
    assert (status, err) == (1, "run failed: interrupted twice, so ended at once; what the last checkpoint holds is kept\n")
    assert left(children) == []


def test_no_rank_outlives_a_killed_launcher(tmp_path):
    """Not even a stopped one."""
    process = start("+strategy=ddp", TWO, "run_dir=x", *LONG, cwd=tmp_path)
    wait_until(lambda: steps_done(tmp_path / "x") >= 1, process)
    children = descendants(process.pid)
    assert len(children) == 2
    children[1].suspend()
    process.kill()
    process.wait()
    wait_until(lambda: left(children) == [], seconds=30)


def test_a_port_in_use(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, err = run("+strategy=ddp", TWO, "run_dir=x", f"launcher.master_port={port}", cwd=tmp_path)
    expected = f"error: launcher.master_port={port}: cannot be listened on (Address already in use); choose another, or leave it out to take a free one\n"
    assert (status, err) == (2, expected)


def _of_two_machines() -> list[str]:
    """Arguments for each of two launchers of one run here."""
    common = ["+strategy=ddp", "train.max_steps=3", "launcher.nproc_per_node=1", "launcher.nnodes=2"]
    common += ["launcher.master_addr=127.0.0.1", f"launcher.master_port={free_port()}", "launcher.interface=" + ("lo0" if sys.platform == "darwin" else "lo")]
    return common


@pytest.mark.parametrize("node", [0, 1])
def test_a_machine_that_waits_for_another_is_asked_to_stop(node, tmp_path):
    process = start(*_of_two_machines(), f"launcher.node_rank={node}", "run_dir=run", cwd=tmp_path)
    wait_until(lambda: live_path(tmp_path / "run", node).exists(), process)
    process.terminate()
    status, _, err = finish(process, timeout=60)
    assert (status, err) == (75, "stopped, resumable: before training began; run the same command to go on\n")


@pytest.mark.large
def test_a_machine_that_waits_longer_than_a_stall_takes_goes_on_when_the_other_comes(tmp_path):
    common = [*_of_two_machines(), "run_dir=run"]
    first = start(*common, "launcher.node_rank=0", "run.stall_timeout=2", cwd=tmp_path)
    record = tmp_path / "run" / "ranks" / "rank-0.json"
    wait_until(lambda: record.exists() and _still(record) > 4, first)
    results = [finish(node) for node in (start(*common, "launcher.node_rank=1", cwd=tmp_path), first)]
    assert [status for status, _, _ in results] == [0, 0], results


def _still(record: Path) -> float:
    told = json.loads(record.read_text())
    return told["written"] - told["changed"]


def test_two_launchers_make_one_run(tmp_path):
    common = _of_two_machines()
    nodes = [start(*common, f"launcher.node_rank={node}", cwd=tmp_path) for node in (1, 0)]
    results = [finish(node) for node in nodes]
    assert [status for status, _, _ in results] == [0, 0], results
    assert "finished  step 3" in results[1][1]
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert [step for step, _, _ in losses(run_dir)] == [1, 2, 3]


def test_several_machines_need_an_address_and_a_port(tmp_path):
    status, _, err = run("launcher.nnodes=2", "launcher.master_addr=node0", cwd=tmp_path)
    assert (status, err) == (
        2,
        "error: launcher.master_port: 2 machines (launcher.nnodes) need the address of machine 0 and a free port there, the same on all: "
        "launcher.master_addr=HOST launcher.master_port=29500\n",
    )


def test_a_sweep_gives_each_run_its_own_directory(tmp_path):
    status, _, err = run("+strategy=single,ddp", "-m", "launcher.nproc_per_node=1", "run_dir=x", "train.max_steps=2", cwd=tmp_path)
    assert status == 0, err
    one, two = (losses(tmp_path / "x" / f"strategy={name}") for name in ("single", "ddp"))
    assert one == two
    assert len(one) == 2


def test_the_script_for_this_machine(tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [ROOT / "launch/local.sh", "3", "+strategy=fsdp", "run_dir=a directory", "--cfg", "job"],
        cwd=tmp_path,
        env=environment(PATH=path),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "  nproc_per_node: 3\n" in done.stdout
    assert "run_dir: a directory\n" in done.stdout
