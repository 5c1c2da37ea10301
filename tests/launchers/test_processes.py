"""The ranks of one machine, as child processes that do other work than training."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.disks import fill, small_disk
from tests.doctor.test_record import put, record
from trainer.config import Config
from trainer.data.synthetic import Synthetic
from trainer.errors import RunError, Stopped
from trainer.launchers.local import Local
from trainer.launchers.processes import _Frozen, run_children
from trainer.launchers.ranks import ERROR_FILE, RankDied
from trainer.models.gpt import GPT
from trainer.strategies.single import Single

WAIT_SECONDS = 20.0


def wait_to_be_asked(config: Config, place, asked: list[int]) -> None:
    """The ranks' work."""
    end = time.monotonic() + WAIT_SECONDS
    while not asked and time.monotonic() < end:
        time.sleep(0.01)
    raise Stopped(f"{place.launch} was asked to stop by {asked}")


def _config(run_dir: Path) -> Config:
    return Config(run_dir=str(run_dir), strategy=Single(), model=GPT(), data=Synthetic(), launcher=Local())


def test_a_stop_that_came_before_the_ranks_were_there_reaches_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    config = _config(tmp_path)
    with pytest.raises(Stopped, match=r"^launch 1 was asked to stop by \[15\]$"):
        run_children(Local(), config, 1, "tests.launchers.test_processes:wait_to_be_asked", "launch 1", [signal.SIGTERM])


def fail_on_a_full_disk(config: Config, place, asked: list[int]) -> None:
    """The ranks' work."""
    fill(Path(os.environ[ERROR_FILE]).parent)
    raise RunError("a reason")


def stop_on_a_full_disk_without_room(config: Config, place, asked: list[int]) -> None:
    """The ranks' work."""
    directory = Path(os.environ[ERROR_FILE]).parent
    for room in directory.glob("*.room"):
        room.unlink()
    fill(directory)
    raise Stopped("at step 3")


@pytest.mark.parametrize(
    ("work", "kind", "message"),
    [
        (fail_on_a_full_disk, RunError, "a reason"),
        (stop_on_a_full_disk_without_room, Stopped, "rank 0 could not write down why it ended: it is printed above"),
    ],
)
def test_why_a_rank_ends_is_known_where_the_disk_is_full(work, kind, message, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "disk"))
    with small_disk(tmp_path / "disk", 1 << 20), pytest.raises(kind) as caught:
        run_children(Local(), _config(tmp_path), 1, f"{__name__}:{work.__name__}", "launch 1", [])
    assert (type(caught.value), str(caught.value)) == (kind, message)
    assert ("rank 0 cannot write down why it ends ([Errno 28] No space left on device): at step 3\n" in capfd.readouterr().err) == (kind is Stopped)


def test_no_room_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "disk"))
    with small_disk(tmp_path / "disk", 1 << 20):
        fill(tmp_path / "disk")
        with pytest.raises(RunError, match=r"^temporary files cannot be written \(.*No space left on device.*set TMPDIR"):
            run_children(Local(), _config(tmp_path), 1, "not:reached", "launch 1", [])


def test_the_launcher_speaks_of_a_stall_where_no_rank_is_left_that_does(tmp_path: Path) -> None:
    """Else it is said twice."""
    config = _config(tmp_path)
    config.run.stall_timeout = 60.0
    with subprocess.Popen(["sleep", "100"]) as rank:
        put(tmp_path, record(0, rank.pid))
        frozen = _Frozen(config, {0: rank})
        try:
            frozen._next = 0.0
            frozen.check()
            rank.send_signal(signal.SIGSTOP)
            os.waitpid(rank.pid, os.WUNTRACED)
            frozen._next = 0.0
            with pytest.raises(RankDied, match=r"^rank 0 is stopped"):
                frozen.check()
        finally:
            rank.kill()
