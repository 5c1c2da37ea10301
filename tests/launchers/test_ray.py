"""The Ray launcher: the same run as the local one, and the same answers when it goes wrong."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from tests.commands import TINY, free_port, run_without_torch
from tests.launchers.clusters import lose, machine
from tests.launchers.running import descendants, finish, first_steps, left, losses, run, start, steps_done, wait_until

TWO = "launcher.nproc_per_node=2"
STEPS = ["train.max_steps=6", "checkpoint.every=2"]


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_ray_trains_exactly_as_the_local_launcher_and_leaves_nothing(tmp_path):
    process = start("+strategy=ray", *STEPS, "run_dir=ray", cwd=tmp_path)
    wait_until(lambda: steps_done(tmp_path / "ray") >= 1, process)
    children = descendants(process.pid)
    assert any("raylet" in line for line in left(children))
    second = run_without_torch(*TINY, "run_dir=ray", cwd=tmp_path)
    assert second.returncode == 2
    assert second.stderr.startswith(f"error: run_dir=ray: another run is at work in it: process {process.pid} of ")
    status, out, err = finish(process)
    assert (status, err) == (0, "")
    assert out.startswith("run       ")
    assert "strategy  ddp, 2 processes on cpu\n" in out
    assert "finished  step 6\n" in out
    wait_until(lambda: left(children) == [], seconds=20)
    assert run("+strategy=ddp", TWO, *STEPS, "run_dir=local", cwd=tmp_path)[0] == 0
    assert losses(tmp_path / "ray") == losses(tmp_path / "local")
    assert {path.name for path in (tmp_path / "ray").iterdir()} == {path.name for path in (tmp_path / "local").iterdir()}


@pytest.mark.large
def test_a_killed_worker_is_named_and_the_run_goes_on_from_the_last_checkpoint(tmp_path):
    trouble = ["model.how=kill", "model.at=6", f"model.once={tmp_path}/once"]
    status, _, err = run("+strategy=fsdp", "launcher=ray", TWO, *STEPS, *trouble, "run.max_restarts=1", "checkpoint.resume=never", "run_dir=ray", cwd=tmp_path)
    assert status == 0, err
    assert first_steps(tmp_path / "ray") == [1, 5]
    assert err.startswith("rank 1 died: it ended without a word (process ")
    assert err.endswith("; the other ranks were ended\nrestart 1 of 1 from the last checkpoint\n")
    assert run("+strategy=fsdp", TWO, *STEPS, "run_dir=local", cwd=tmp_path)[0] == 0
    assert losses(tmp_path / "ray") == losses(tmp_path / "local")


@pytest.mark.large
def test_a_worker_that_dies_again_without_progress_is_left_out(tmp_path):
    """Rank 1 dies in the second step of each start."""
    steps = ["+strategy=fsdp", TWO, "train.max_steps=4", "checkpoint.every=3"]
    trouble = ["model.how=kill", "model.at=2", "run.max_restarts=2", "run.min_ranks=1"]
    status, _, err = run(*steps, "launcher=ray", *trouble, "run_dir=ray", cwd=tmp_path)
    assert status == 0, err
    assert "restart 1 of 2 from the last checkpoint\n" in err
    assert err.endswith("restart 2 of 2 from the last checkpoint, on 1 rank instead of 2\n")
    assert run(*steps, "run_dir=local", cwd=tmp_path)[0] == 0
    for one, other in zip(losses(tmp_path / "ray"), losses(tmp_path / "local"), strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.large
def test_a_run_goes_on_without_a_machine_that_has_gone(monkeypatch, tmp_path):
    """Two machines with room for one worker each; the second goes while they train."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    address = f"127.0.0.1:{free_port()}"
    steps = ["+strategy=ddp", "launcher.nproc_per_node=1", "train.max_steps=60", "model.seconds=0.1", "checkpoint.every=5"]
    ray = ["launcher=ray", "launcher.nnodes=2", f"launcher.address='{address}'", "run.max_restarts=2", "run.min_ranks=1"]
    with machine("--head", f"--port={address.rpartition(':')[2]}", "--num-cpus=1"), machine(f"--address={address}", "--num-cpus=1") as second:
        process = start(*steps, *ray, "run_dir=ray", cwd=tmp_path)
        wait_until(lambda: steps_done(tmp_path / "ray") >= 10, process)
        lose(second)
        status, _, err = finish(process)
    assert status == 0, err
    assert "from the last checkpoint, on 1 rank instead of 2\n" in err
    assert [row[0] for row in losses(tmp_path / "ray")] == list(range(1, 61))


@pytest.mark.large
def test_a_killed_worker_without_a_restart(tmp_path):
    status, _, err = run("+strategy=ray", *STEPS, "model.how=kill", "run_dir=ray", cwd=tmp_path)
    assert status == 1
    assert err.startswith("run failed: rank 1 died: it ended without a word (process ")


@pytest.mark.large
def test_an_exception_comes_with_its_traceback(tmp_path):
    status, _, err = run("+strategy=ray", *STEPS, "model.how=raise", "run_dir=ray", cwd=tmp_path)
    assert status == 1
    assert err.startswith("run failed: rank 1 failed: ValueError: a mistake in the model\n\nTraceback (most recent call last):")


@pytest.mark.large
def test_an_explained_error_of_one_rank_is_the_run_s_without_a_restart(tmp_path):
    status, _, err = run("+strategy=ray", *STEPS, "model.how=config", "run.max_restarts=3", "run_dir=ray", cwd=tmp_path)
    assert (status, err) == (2, "error: model.how=config: does not do\n")


@pytest.mark.large
@pytest.mark.parametrize(("number", "send"), [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)])
def test_one_signal_is_an_agreed_stop(number, send, tmp_path):
    process = start("+strategy=ray", "train.max_steps=100000", "model.seconds=0.02", "run_dir=ray", cwd=tmp_path)
    wait_until(lambda: steps_done(tmp_path / "ray") >= 2, process)
    children = descendants(process.pid)
    send(process.pid, number)  # a terminal sends Ctrl-C to all; a SIGTERM to all would end Ray itself
    status, _, err = finish(process)
    assert status == 75, err
    assert err.startswith("stopped, resumable: at step ")
    assert len(list((tmp_path / "ray" / "checkpoints").glob("*/manifest.json"))) == 1
    wait_until(lambda: left(children) == [], seconds=20)


@pytest.mark.large
@pytest.mark.parametrize("how", ["two interrupts", "a kill"])
def test_an_end_at_once_leaves_nothing(how, tmp_path):
    process = start("+strategy=ray", "train.max_steps=100000", "model.seconds=1000", "run_dir=ray", cwd=tmp_path)
    wait_until(lambda: (tmp_path / "ray" / "config.yaml").exists(), process)
    children = descendants(process.pid)
    if how == "two interrupts":
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(1)  # once only asks, and this step takes a while
        os.killpg(process.pid, signal.SIGINT)
        status, _, err = finish(process, timeout=60)
        assert (status, err) == (1, "run failed: interrupted twice, so ended at once; what the last checkpoint holds is kept\n")
    else:
        process.kill()
        process.wait()
    wait_until(lambda: left(children) == [], seconds=60)


def test_an_address_that_does_not_answer(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        status, _, err = run("+strategy=ray", f"launcher.address='{address}'", cwd=tmp_path)
    assert status == 2
    assert err == (
        f"error: launcher.address={address}: no Ray cluster answers there ([Errno 111] Connection refused); "
        "`ray status` shows a running one, and without an address one is started here\n"
    )


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:port"])
def test_an_address_of_the_wrong_form(address, tmp_path):
    status, _, err = run("+strategy=ray", f"launcher.address='{address}'", cwd=tmp_path)
    assert (status, err) == (2, f"error: launcher.address={address}: must be HOST:PORT of a running Ray cluster (its GCS, usually port 6379), or auto\n")


def test_ray_is_not_installed(tmp_path):
    hidden = "import runpy, sys; sys.modules |= {'ray': None, 'torch': None}; sys.argv[0] = 'trainer'; runpy.run_module('trainer', run_name='__main__')"
    status, _, err = run("+strategy=ray", cwd=tmp_path, python=("-c", hidden))
    assert status == 2
    assert err.startswith("error: launcher=ray needs the package 'ray', which is not installed; install it with: pip install")


def test_not_under_torchrun(tmp_path):
    status, _, err = run("+strategy=ray", cwd=tmp_path, RANK="0", WORLD_SIZE="2")
    assert (status, err) == (
        2,
        "error: launcher=ray: Ray starts the workers itself; run it without torchrun (RANK and WORLD_SIZE are set), or with launcher=local\n",
    )


def test_strategy_ray_is_ddp_in_ray_and_its_knobs_can_be_set(tmp_path):
    for preset in ("strategy=ray", "+strategy=ray"):
        status, out, err = run(preset, "strategy.bucket_cap_mb=7", TWO, "--cfg", "job", cwd=tmp_path)
        assert status == 0, err
        assert "strategy:\n  bucket_cap_mb: 7\n" in out
        assert "launcher:\n  nproc_per_node: 2\n  nnodes: 1\n  address: null\n" in out
