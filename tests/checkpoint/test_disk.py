"""A disk that fills up while a checkpoint is saved, and one that becomes read-only: real ones."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import resource
import tempfile
from pathlib import Path

import pytest

from tests import ranks, tiny
from tests.checkpoint.test_resume import said
from tests.commands import without_privileges
from tests.disks import remount, small_disk
from tests.test_worker import metrics, run
from tests.tiny import Tiny
from trainer.checkpoint.directory import directory, list_whole
from trainer.config import Config
from trainer.sections import CheckpointConfig
from trainer.strategies.ddp import DDP
from trainer.strategies.single import Single

NEXT = "and the next save tries again\n"


def make(run_dir: Path, overlap: bool = True, every: int = 2) -> Config:
    return dataclasses.replace(tiny.config(DDP(), run_dir, model=Tiny(dim=32)), checkpoint=CheckpointConfig(every=every, keep=1, overlap=overlap))


@pytest.fixture(scope="module")
def size(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Bytes of one checkpoint."""
    run_dir = tmp_path_factory.mktemp("size")
    config = make(run_dir, every=0)
    assert ranks.run(2, run, config) == ["done"] * 2
    (path,) = list_whole(run_dir)
    return sum(file.stat().st_size for file in path.iterdir())


@pytest.mark.parametrize("overlap", [False, True], ids=["waiting", "overlap"])
def test_a_full_disk_stops_only_the_last_save(overlap: bool, size: int, tmp_path: Path) -> None:
    """Room for one checkpoint and a half: that of step 2; those of steps 4 and 5 fail."""
    config, disk = make(tmp_path, overlap), tmp_path / "checkpoints"
    with small_disk(disk, size * 3 // 2):
        (first, told), (second, other) = ranks.run(2, said, config)
        assert (first, other) == (second, "")
        assert told.count("warning: ") == told.count("\n") == 1
        assert told.startswith(f"warning: step 4: {directory(tmp_path, 4)} could not be written: No space left on device on rank")
        assert told.endswith(f"; training goes on, the newest whole checkpoint is {directory(tmp_path, 2)}, {NEXT}")
        assert first.startswith(f"RunError: step 5: {directory(tmp_path, 5)} could not be written: No space left on device on rank")
        assert f"; this was the last save, and the newest whole checkpoint is {directory(tmp_path, 2)}. Make room" in first
        assert list(disk.iterdir()) == [directory(tmp_path, 2)]  # what was half written is gone
        free = os.statvfs(disk)
        assert free.f_bavail * free.f_frsize > size // 3
        assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5]
        assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"
        remount(disk, f"size={size * 9}")
        assert ranks.run(2, run, config) == ["done"] * 2
        assert json.loads((tmp_path / "run.json").read_text())["run"]["first_step"] == 3


class MakesRoom(io.StringIO):
    """A stderr whose reader makes room on the disk when it reads a warning."""

    def __init__(self, disk: Path) -> None:
        super().__init__()
        self._disk = disk

    def write(self, text: str) -> int:
        if "No space left" in text:
            remount(self._disk, "size=100m")
        return super().write(text)


def with_room_made(config: Config) -> tuple[str, str]:
    with contextlib.redirect_stderr(MakesRoom(Path(str(config.run_dir)) / "checkpoints")) as err:
        return run(config), err.getvalue()


def test_the_next_save_after_a_full_disk_tries_again(size: int, tmp_path: Path) -> None:
    with small_disk(tmp_path / "checkpoints", size * 3 // 2):
        (first, told), (second, _) = ranks.run(2, with_room_made, make(tmp_path, overlap=False))
        assert (first, second, told.count("warning: step 4: ")) == ("done", "done", 1)
        assert list_whole(tmp_path) == [directory(tmp_path, 5)]


def test_a_disk_that_is_read_only_now(tmp_path: Path) -> None:
    config, disk = make(tmp_path), tmp_path / "checkpoints"
    with small_disk(disk, 2**26):
        assert ranks.run(2, run, dataclasses.replace(config, train=dataclasses.replace(config.train, stop_at=2))) == ["done"] * 2
        remount(disk, "ro")
        (first, told), (second, _) = ranks.run(2, said, config)
        assert first == second
        assert told.startswith(f"warning: step 4: {directory(tmp_path, 4)} could not be written: Read-only file system on rank 0; training goes on, ")
        assert first.startswith(f"RunError: step 5: {directory(tmp_path, 5)} could not be written: Read-only file system on rank 0; this was the last")
        assert list_whole(tmp_path) == [directory(tmp_path, 2)]


def unprivileged(config: Config) -> tuple[str, str]:
    with without_privileges():
        return said(config)


def test_a_directory_without_permission() -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own is closed to others
        run_dir = Path(place)
        run_dir.chmod(0o777)
        (run_dir / "checkpoints").mkdir()
        (run_dir / "checkpoints").chmod(0o555)
        ((ended, told),) = ranks.run(1, unprivileged, dataclasses.replace(make(run_dir), strategy=Single()), group=False)  # the tests' own store is root's
        assert told.count("could not be written: Permission denied on rank 0; training goes on, there is no whole checkpoint yet, and") == 2
        assert ended.startswith(f"RunError: step 5: {directory(run_dir, 5)} could not be written: Permission denied on rank 0; this was the last save")
        assert [line["step"] for line in metrics(run_dir)] == [1, 2, 3, 4, 5]


def limited(config: Config) -> tuple[str, str]:
    """Rank 1 alone may write no file of more than 1,000 bytes."""
    if os.environ["RANK"] == "1":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    return said(config)


@pytest.mark.parametrize("overlap", [False, True], ids=["waiting", "overlap"])
def test_one_rank_that_cannot_write_is_named_by_all(overlap: bool, tmp_path: Path) -> None:
    (first, told), (second, _) = ranks.run(2, limited, make(tmp_path, overlap))
    assert first == second
    assert told.count("could not be written: File too large on rank 1; training goes on, there is no whole checkpoint yet") == 2
    assert first.startswith(f"RunError: step 5: {directory(tmp_path, 5)} could not be written: File too large on rank 1; this was the last save, and there is")
    assert list((tmp_path / "checkpoints").iterdir()) == []
