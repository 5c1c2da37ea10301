"""Being asked to stop, with real signals: at any moment, once or often, it ends resumable and leaves a whole checkpoint."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.launchers.running import descendants, finish, left, start, steps_done, wait_until
from trainer.checkpoint.directory import list_whole, read_manifest, sha256

LONG = ["train.max_steps=100000", "model.seconds=0.02", "checkpoint.every=3"]
SINGLE, TWO = ["+strategy=single", "launcher.nproc_per_node=1"], ["+strategy=fsdp", "launcher.nproc_per_node=2"]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainer")


def assert_whole(run_dir: Path) -> int:
    """The newest checkpoint has every byte, and there is no other that is not whole; its step."""
    for path in list_whole(run_dir):
        assert all(sha256(path / name) == digest for name, digest in read_manifest(path)["files"].items())
    assert len(list_whole(run_dir)) == len(list((run_dir / "checkpoints").iterdir()))
    return read_manifest(list_whole(run_dir)[-1])["step"]


@pytest.mark.parametrize("ranks", [SINGLE, TWO], ids=["single", "two"])
def test_sigterm_again_and_again_changes_nothing(ranks, tmp_path):
    """From the first moment on that a person's command can be asked, through the save, to the very end."""
    process = start(*ranks, "run_dir=x", *LONG, cwd=tmp_path)
    wait_until(lambda: steps_done(tmp_path / "x") >= 4, process)
    children = descendants(process.pid)
    sent = 0
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        sent += 1
        time.sleep(0.003)
    status, _, err = finish(process)
    assert sent > 10
    assert status == 75, err
    step = assert_whole(tmp_path / "x")
    assert err == f"stopped, resumable: at step {step}, saved in x/checkpoints/step-{step:08d}; run the same command to go on\n"
    assert left(children) == []


def test_sigterm_while_one_process_starts(tmp_path):
    process = start(*SINGLE, "run_dir=x", *LONG, cwd=tmp_path)
    wait_until(lambda: _catches_sigterm(process.pid), process)
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert status == 75, err
    assert err.startswith("stopped, resumable: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.large)])
def test_a_stop_while_data_is_prepared(number, tmp_path):
    """In native code, which hears no signal."""
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=9)) for _ in range(400_000)]
    (tmp_path / "words.txt").write_text(" ".join(words))
    data = ["data=text", "data.paths=[words.txt]", "data.tokenizer=bpe", "data.vocab_size=50000"]
    process = start(*SINGLE, "run_dir=x", *LONG, *data, cwd=tmp_path, TRAINER_CACHE=str(tmp_path / "cache"))
    wait_until(lambda: list((tmp_path / "cache").glob("text/.*.*")), process)
    wait_until(lambda: psutil.Process(process.pid).cpu_percent(0.1) < 10, process)
    children = descendants(process.pid)
    os.killpg(process.pid, number)
    status, _, err = finish(process)
    assert (status, err) == (75, "stopped, resumable: before training began; run the same command to go on\n")
    wait_until(lambda: left(children) == [], seconds=30)
    assert [path.suffix for path in (tmp_path / "cache" / "text").iterdir()] == [".lock"]


def _catches_sigterm(pid: int) -> bool:
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.large
def test_sigterm_twice_under_torchrun(tmp_path):
    process = start("strategy=fsdp", "run_dir=x", *LONG[:2], cwd=tmp_path, python=TORCHRUN)
    wait_until(lambda: steps_done(tmp_path / "x") >= 2, process)
    children = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: (tmp_path / "x" / "checkpoints").exists(), process)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 1  # torchrun's own
    assert assert_whole(tmp_path / "x") == steps_done(tmp_path / "x")
    wait_until(lambda: left(children) == [], seconds=30)


@pytest.mark.large
@pytest.mark.parametrize("times", [1, 2])
def test_interrupts_under_torchrun(times, tmp_path):
    """As a terminal sends them: to the whole process group."""
    process = start("strategy=ddp", "run_dir=x", *LONG, cwd=tmp_path, python=TORCHRUN)
    wait_until(lambda: steps_done(tmp_path / "x") >= 4, process)
    children = descendants(process.pid)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.01)
    assert finish(process)[0] == 1
    wait_until(lambda: left(children) == [], seconds=30)
    newest = assert_whole(tmp_path / "x")
    if times == 1:
        assert newest == steps_done(tmp_path / "x")  # an agreed stop


def test_a_long_evaluation_is_not_waited_for(tmp_path):
    slow = ["eval.every=2", "eval.batch_size=1", "data.eval_samples=100000", "model.eval_seconds=0.05", f"model.evaluating={tmp_path}/evaluating"]
    process = start(*TWO, "run_dir=x", "train.max_steps=4", *slow, cwd=tmp_path)
    wait_until(lambda: (tmp_path / "evaluating").exists(), process)
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process, timeout=60)
    assert status == 75, err
    assert err == "stopped, resumable: at step 2, saved in x/checkpoints/step-00000002; run the same command to go on\n"
