"""One run at a time in a run directory: held by real processes, and by what another machine would have left."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import platform
import re
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT, environment
from tests.launchers.running import wait_until
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.launchers.local import Local
from trainer.run_lock import LOCK, STALE_SECONDS, Holder, RunLock, machine, refuse_if_held


def start_holder(run_dir: Path, launch: str = "") -> subprocess.Popen[str]:
    """A process that holds `run_dir` until it is killed."""
    code = f"import time\nfrom pathlib import Path\nfrom trainer.run_lock import RunLock\nlock = RunLock(Path({str(run_dir)!r}), {launch!r})\ntime.sleep(300)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: Holder.read(run_dir / LOCK) is not None, process)
    return process


def refused(run_dir: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        RunLock(run_dir)
    return str(caught.value)


def left_elsewhere(run_dir: Path, age: float = 0.0, **changes: Any) -> Holder:
    """What a run on another machine leaves that gave its last sign of life `age` seconds ago."""
    holder = dataclasses.replace(Holder("node7", "another boot", 1, "alice", "2026-01-02 03:04:05 UTC", "python -m trainer", ""), **changes)
    path = run_dir / LOCK
    path.write_text(json.dumps(dataclasses.asdict(holder)))
    os.utime(path, (time.time() - age,) * 2)
    return holder


def test_the_second_is_refused_with_who_holds_it_and_a_dead_process_holds_nothing(tmp_path: Path) -> None:
    process = start_holder(tmp_path)
    told = refused(tmp_path)
    assert told.startswith(f"run_dir={tmp_path}: another run is at work in it: process {process.pid} of ")
    assert f" on {platform.node()}, since 20" in told
    assert " UTC: " in told
    assert "-c 'import time" in told
    assert told.endswith("\n  wait for its end, or stop it, or give another run_dir=")
    process.kill()
    process.communicate()
    assert (tmp_path / LOCK).exists()
    with RunLock(tmp_path):
        assert f"process {os.getpid()} of " in refused(tmp_path)  # also within one process
    assert list(tmp_path.iterdir()) == []
    assert Path(tmp_path).exists()


CONTAINER = f"{machine().rpartition(' ')[0]} pid:[1]"  # of this machine, with process ids of its own


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a machine has no containers")
def test_a_dead_process_of_another_container_holds_nothing(tmp_path: Path) -> None:
    process = start_holder(tmp_path)
    holder = Holder.read(tmp_path / LOCK)
    assert holder is not None
    left_elsewhere(tmp_path, machine=CONTAINER, device=holder.device)
    assert "process 1 of alice" in refused(tmp_path)  # which lives
    process.kill()
    process.communicate()
    with RunLock(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("changes", [{"machine": CONTAINER, "device": -1}, {"machine": CONTAINER}, {"machine": "another boot pid:[1]", "device": 0}])
def test_the_time_decides_where_another_mount_or_machine_may_have_a_flock_of_its_own(changes: dict[str, Any], tmp_path: Path) -> None:
    left_elsewhere(tmp_path, **{key: tmp_path.stat().st_dev if value == 0 else value for key, value in changes.items()})
    assert "process 1 of alice" in refused(tmp_path)


def test_a_directory_of_which_nothing_came_is_not_left(tmp_path: Path) -> None:
    with RunLock(tmp_path / "empty"):
        pass
    with RunLock(tmp_path / "used"):
        (tmp_path / "used" / "config.yaml").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["used"]


def test_a_run_on_another_machine_is_respected_while_it_gives_signs_of_life(tmp_path: Path) -> None:
    left_elsewhere(tmp_path, age=STALE_SECONDS / 2)
    told = refused(tmp_path)
    assert "process 1 of alice on node7, since 2026-01-02 03:04:05 UTC: python -m trainer\n" in told
    assert re.search(r"\n  if that machine is gone, its lock ends by itself 60 s after its last sign of life, [345]\d s ago", told)
    left_elsewhere(tmp_path, age=STALE_SECONDS + 5)
    with RunLock(tmp_path):
        pass


def test_a_holder_gives_signs_of_life(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        os.utime(tmp_path / LOCK, (0, 0))
        wait_until(lambda: time.time() - (tmp_path / LOCK).stat().st_mtime < 100, seconds=30)


def test_a_run_that_was_overtaken_ends(tmp_path: Path) -> None:
    process = start_holder(tmp_path)
    other = left_elsewhere(tmp_path)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, f"run failed: run_dir={tmp_path}: has been taken over by another run: {other}\n")
    assert Holder.read(tmp_path / LOCK) == other


def test_a_file_system_without_flock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    process = start_holder(tmp_path)
    monkeypatch.setattr(fcntl, "flock", flock)
    assert f"process {process.pid} of " in refused(tmp_path)
    process.kill()
    process.communicate()
    with RunLock(tmp_path):
        pass


def test_the_others_of_a_launch_are_refused_like_the_first(tmp_path: Path) -> None:
    refuse_if_held(tmp_path, "launch 2")
    process = start_holder(tmp_path, "launch 1")
    refuse_if_held(tmp_path, "launch 1")
    with pytest.raises(ConfigError, match=f"another run is at work in it: process {process.pid} of "):
        refuse_if_held(tmp_path, "launch 2")
    process.kill()
    process.communicate()
    refuse_if_held(tmp_path, "launch 2")
    left_elsewhere(tmp_path, launch="launch 1")
    with pytest.raises(ConfigError, match="process 1 of alice on node7"):
        refuse_if_held(tmp_path, "launch 2")


def test_a_run_dir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file") == f"run_dir={tmp_path}/file: cannot be written (File exists); give another, or make it writable"
    assert refused(tmp_path / "file" / "x") == f"run_dir={tmp_path}/file/x: cannot be written (Not a directory); give another, or make it writable"


def test_a_launch_that_starts_its_ranks_again_does_not_wait_for_a_machine_that_is_lost(tmp_path: Path) -> None:
    left_elsewhere(tmp_path, launch="launch 1")
    for launch, again in [("launch 1", False), ("launch 2", True)]:
        with pytest.raises(ConfigError, match="process 1 of alice on node7"):
            RunLock(tmp_path, launch, again)
    with RunLock(tmp_path, "launch 1", again=True):
        holder = Holder.read(tmp_path / LOCK)
        assert holder is not None
        assert (holder.pid, holder.launch) == (os.getpid(), "launch 1")
    left_elsewhere(tmp_path, launch="")
    with pytest.raises(ConfigError, match="process 1 of alice on node7"):
        RunLock(tmp_path, "", again=True)
    (tmp_path / LOCK).unlink()
    process = start_holder(tmp_path, "launch 1")
    with pytest.raises(ConfigError, match=f"process {process.pid} of "):
        RunLock(tmp_path, "launch 1", again=True)
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("count", "name", "taken"), [("1", "launch 1", True), ("0", "launch 1", False), ("1", "none", False)])
def test_torchrun_says_whether_it_starts_the_ranks_again(count: str, name: str, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "none" is what its id is when none was given: every launch's."""
    left_elsewhere(tmp_path, launch=name)
    for variable, value in {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": name, "TORCHELASTIC_RESTART_COUNT": count}.items():
        monkeypatch.setenv(variable, value)
    with nullcontext() if taken else pytest.raises(ConfigError, match="alice on node7"), Local().lock(Config(run_dir=str(tmp_path))):
        pass
