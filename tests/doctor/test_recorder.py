"""What a rank's recorder writes, and what counts as coming further."""

from __future__ import annotations

import faulthandler
import mmap
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests import ranks
from tests.disks import small_disk
from trainer.doctor.record import STACKS_SIGNAL, directory, read
from trainer.doctor.recorder import READ_OR_WRITTEN, Recorder
from trainer.doctor.sight import Life, look
from trainer.errors import RunError
from trainer.whereabouts import Phase


@pytest.fixture(autouse=True)
def _unregister():
    yield
    faulthandler.unregister(STACKS_SIGNAL)


def test_what_is_read_after_going_back_counts_as_work_up_to_the_next_step(tmp_path):
    """Else hashing and reading a large checkpoint for longer than `run.stall_timeout` would end the run."""
    recorder = Recorder(tmp_path, 0, 1, patience=60)
    where, file = recorder.where, tmp_path / "read"

    def still_after_work() -> bool:
        recorder.look()  # may have seen another phase or step
        file.write_bytes(bytes(2 * READ_OR_WRITTEN))
        return recorder.look() > 0

    where.begin()
    assert not still_after_work()
    where.step, where.phase = 5, Phase.DATA
    assert not still_after_work()  # the first step compiles
    where.taken()
    assert still_after_work()
    where.begin()
    assert not still_after_work()
    where.step, where.phase = 3, Phase.FORWARD_BACKWARD
    assert not still_after_work()
    where.taken()
    assert still_after_work()
    recorder.end("finished")


def collectives_of_a_rank_that_ended(run_dir: Path) -> tuple[dict[str, int], dict[str, int]]:
    recorder = Recorder(run_dir, 0, 1, patience=60)
    recorder.look()
    dist.all_reduce(torch.ones(1))
    before = read(run_dir)[0].entered
    recorder.end("failed", "an error")
    return before, read(run_dir)[0].entered


def test_the_last_record_has_the_last_collectives(tmp_path):
    """They were those of up to a second before: of ranks that had all finished, one seemed not to have left its last."""
    ((before, after),) = ranks.run(1, collectives_of_a_rank_that_ended, tmp_path)
    assert after.get("0", 0) == before.get("0", 0) + 1


def test_a_rank_that_has_just_begun_is_not_silent(tmp_path):
    recorder = Recorder(tmp_path, 0, 1, patience=60)
    assert [sight.life for sight in look(tmp_path)] == [Life.RUNNING]
    recorder.end("finished")


@pytest.mark.parametrize("free", [0, 1], ids=["whereabouts", "record"])
def test_a_full_disk_at_the_start_is_said(free, tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, 2 * mmap.PAGESIZE):
        (disk / "other").write_bytes(bytes((2 - free) * mmap.PAGESIZE))
        with pytest.raises(RunError, match=rf"^run_dir={disk}: cannot be written \(No space left on device\); give a directory with room"):
            Recorder(disk, 0, 1, patience=60)
        assert list(directory(disk).glob("rank-0.json")) == []
