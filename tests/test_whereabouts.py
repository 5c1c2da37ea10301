"""Where a rank is, in a file that a kill, a power cut or a full disk may have spoilt."""

from __future__ import annotations

import mmap
import struct

import pytest

from tests.disks import small_disk
from trainer.whereabouts import Phase, Whereabouts


def test_what_was_stored_last_is_read_from_the_file(tmp_path):
    path = tmp_path / "rank-0.live"
    where = Whereabouts(path)
    where.step, where.phase = 7, Phase.SAVE
    where.taken()
    assert Whereabouts.read(path) == (7, Phase.SAVE)
    assert Whereabouts(path).before == 7
    assert Whereabouts.read(path) == (0, Phase.START_UP)


@pytest.mark.parametrize("data", [b"", bytes(3), bytes(8), bytes(40), struct.pack("4q", 5, len(Phase), 0, 0), struct.pack("4q", 5, -1, 0, 0)])
def test_a_file_that_is_none_is_an_error_to_read_and_none_to_begin_with(data, tmp_path):
    """Empty: as of a process that was killed just when it made it."""
    path = tmp_path / "rank-0.live"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^{path}: "):
        Whereabouts.read(path)
    assert Whereabouts(path).before == 0
    assert Whereabouts.read(path) == (0, Phase.START_UP)


def test_a_full_disk_is_an_error_at_once(tmp_path):
    """Not at the first store, which would end the process (SIGBUS)."""
    with small_disk(tmp_path / "disk", mmap.PAGESIZE):
        (tmp_path / "disk" / "other").write_bytes(bytes(mmap.PAGESIZE))
        with pytest.raises(OSError, match="No space left on device"):
            Whereabouts(tmp_path / "disk" / "rank-0.live")


def test_it_is_settled_once_a_step_has_been_taken_since_training_began():
    where = Whereabouts()
    for step in (1, 2):  # the second time it goes back
        where.begin()
        assert (where.phase, where.settled) == (Phase.START_UP, False)
        where.step = step
        where.taken()
        assert where.settled
