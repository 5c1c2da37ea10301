"""torchrun around the command: it is one rank, and a mistake is said once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, environment, free_port
from tests.launchers.running import PARTS, TROUBLE, descendants, finish, first_steps, losses, run, start, steps_done, wait_until
from trainer.run_lock import LOCK, Holder

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainer")


def test_torchrun_trains_as_the_local_launcher_does(tmp_path):
    status, out, err = run("strategy=fsdp", "run_dir=torchrun", "train.max_steps=3", cwd=tmp_path, python=TORCHRUN)
    assert status == 0, err
    assert out.count("strategy  fsdp, 2 processes on cpu\n") == 1
    assert run("strategy=fsdp", "run_dir=local", "train.max_steps=3", cwd=tmp_path)[0] == 0
    assert losses(tmp_path / "torchrun") == losses(tmp_path / "local")


def test_a_mistake_is_said_once_even_if_local_rank_0_is_the_last_to_find_it(tmp_path):
    late = tmp_path / "late.py"
    late.write_text("import os, runpy, time; time.sleep(os.environ['LOCAL_RANK'] == '0'); runpy.run_module('trainer', run_name='__main__')")
    status, _, err = run("train.max_step=3", cwd=tmp_path, python=(*TORCHRUN[:5], str(late)))
    assert status == 1  # torchrun's own, whatever its ranks end with
    assert err.count("error: unknown key 'train.max_step'; did you mean 'train.max_steps'?\n") == 1
    assert "exitcode  : 2 (" in err


@pytest.mark.large
def test_a_sweep_under_torchrun(tmp_path):
    status, _, err = run("strategy=ddp,fsdp", "run_dir=x", "train.max_steps=2", "-m", cwd=tmp_path, python=TORCHRUN)
    assert status == 0, err
    assert [step for name in ("ddp", "fsdp") for step, _, _ in losses(tmp_path / "x" / f"strategy={name}")] == [1, 2, 1, 2]


def test_restarts_are_torchrun_s(tmp_path):
    status, out, err = run("strategy=ddp", "run_dir=x", "run.max_restarts=3", cwd=tmp_path, RANK="0", WORLD_SIZE="2")
    told = "run.max_restarts=3: has no effect under torchrun, which starts its ranks again itself; leave it out, and give torchrun --max-restarts 3"
    assert (status, out, err) == (2, "", f"error: {told} (MAX_RESTARTS=3 launch/torchrun.sh)\n")
    assert not (tmp_path / "x").exists()


def test_a_rank_that_dies_is_started_again_from_the_last_checkpoint(tmp_path):
    """From that of this launch, also where another would begin anew."""
    steps = ["strategy=ddp", "train.max_steps=6", "checkpoint.every=2", "checkpoint.resume=never"]
    trouble = ["model.how=kill", "model.at=6", f"model.once={tmp_path}/once"]
    python = (*TORCHRUN[:2], "--max-restarts", "1", *TORCHRUN[2:])
    status, _, err = run(*steps, *trouble, "run_dir=killed", cwd=tmp_path, python=python)
    assert status == 0, err
    assert first_steps(tmp_path / "killed") == [1, 5]
    assert run(*steps, "run_dir=whole", "launcher.nproc_per_node=2", cwd=tmp_path)[0] == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


@pytest.mark.large
def test_a_second_run_is_refused_by_all_ranks_and_a_stopped_one_holds_nothing(tmp_path):
    first = start("strategy=ddp", "run_dir=x", "train.max_steps=100000", "model.seconds=0.02", cwd=tmp_path, python=TORCHRUN)
    wait_until(lambda: steps_done(tmp_path / "x") >= 1, first)
    holder = Holder.read(tmp_path / "x" / LOCK)
    assert holder is not None
    assert holder.pid in {child.pid for child in descendants(first.pid)}
    status, _, err = run("strategy=ddp", "run_dir=x", "train.max_steps=4", cwd=tmp_path, python=TORCHRUN)
    assert status == 1  # torchrun's own
    assert err.count(f"error: run_dir=x: another run is at work in it: process {holder.pid} of ") == 1
    first.terminate()
    finish(first)
    assert len(list((tmp_path / "x" / "checkpoints").glob("*/manifest.json"))) == 1
    assert not (tmp_path / "x" / LOCK).exists()


@pytest.mark.large
def test_the_script_on_two_machines_restarts_both_when_a_rank_dies(tmp_path):
    endpoint = f"127.0.0.1:{free_port()}"
    steps = ["strategy=ddp", "train.max_steps=6", "checkpoint.every=2", "run_dir=two"]
    trouble = ["model.how=kill", "model.at=6", f"model.once={tmp_path}/once"]
    env = environment(NNODES="2", NPROC="1", RDZV_ENDPOINT=endpoint, MAX_RESTARTS="1", PYTHONPATH=os.pathsep.join([str(PARTS), str(ROOT)]))
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    command = [str(ROOT / "launch" / "torchrun.sh"), *TROUBLE, *steps, *trouble]
    nodes = [subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = [finish(node) for node in nodes]
    assert [status for status, _, _ in results] == [0, 0], results
    assert (tmp_path / "once").exists()
    assert [step for step, _, _ in losses(tmp_path / "two")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.large
def test_the_script_goes_on_with_the_machine_that_is_left(tmp_path):
    """Two machines, of which one is lost with all that runs there; the losses go on as those of both."""
    port = free_port()
    steps = ["strategy=fsdp", "train.max_steps=150", "checkpoint.every=2", "model.seconds=0.1", "run_dir=x"]
    env = environment(NNODES="1:2", NPROC="1", RDZV_ENDPOINT=f"127.0.0.1:{port}", MAX_RESTARTS="3", PYTHONPATH=os.pathsep.join([str(PARTS), str(ROOT)]))
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    command = [str(ROOT / "launch" / "torchrun.sh"), *TROUBLE, *steps]
    stays = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: _listens(port), stays)  # the machine of the rendezvous, whose loss would be the run's
    goes = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # The first one begins alone where the second takes more than torchrun's last call to come.
    wait_until(lambda: steps_done(tmp_path / "x") >= 5 and _ranks(tmp_path / "x") == 2, stays)
    for process in [*descendants(goes.pid), goes]:
        process.kill()
    status, _, err = finish(stays)
    assert status == 0, err
    assert _ranks(tmp_path / "x") == 1
    assert run(*steps[:2], "run_dir=whole", "launcher.nproc_per_node=2", cwd=tmp_path)[0] == 0
    for one, other in zip(losses(tmp_path / "x"), losses(tmp_path / "whole"), strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def _ranks(run_dir: Path) -> int:
    return json.loads((run_dir / "run.json").read_text())["run"]["world_size"]


def _listens(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0
