"""One sentence from what is seen: the culprit is named, not a victim."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.doctor.diagnose import diagnose
from trainer.doctor.record import Collective, RankRecord
from trainer.doctor.sequence import first_difference
from trainer.doctor.sight import Life, RankSight

STEP = ["all_gather [4]", "all_gather [9]", "all_reduce [2]", "reduce_scatter [9]"]


def calls(*names: str, first: int = 1, left: bool = True) -> list[Collective]:
    """Consecutive collectives, "name [size]"; the last one not left, where `left` is not."""
    split = [name.split(" ") for name in names]
    entries = [Collective("0", first + i, name, [[int(size[1:-1])]], True) for i, (name, size) in enumerate(split)]
    if not left:
        entries[-1] = Collective(**{**vars(entries[-1]), "left": False})
    return entries


def sight(rank: int, life: Life = Life.RUNNING, still: float = 60.0, here: bool = True, oom: bool = False, **values: Any) -> RankSight:
    defaults = {"step": 7, "phase": "forward/backward", "entered": {"0": 41}, "left": {"0": 40}, "written": 1000.0}
    record = RankRecord(rank, 4, f"node{rank // 2}", f"boot{rank // 2}", 100 + rank, 1, 0.0, 1.0, **{**defaults, **values})
    return RankSight(record, life, still, here, oom)


HERE = {"entered": {"0": 40}, "left": {"0": 40}}


@pytest.mark.parametrize(
    ("seen", "kind", "ranks", "words"),
    [
        ([sight(0), sight(1), sight(2, Life.DEAD), sight(3)], "dead rank", [2], "rank 2 is dead: its process 102 on node1 went"),
        ([sight(0), sight(1, Life.DEAD, oom=True)], "out of memory", [1], "the kernel has since ended a process"),
        (
            [sight(0), sight(1, Life.ENDED, ended="failed", error="OutOfMemoryError: CUDA out of memory.")],
            "out of memory",
            [1],
            "rank 1 ran out of memory in step 7",
        ),
        (
            [sight(0, Life.ENDED, ended="failed", error="RuntimeError: Connection closed by peer"), sight(1, Life.DEAD)],
            "dead rank",
            [1],
            "rank 1 is dead",
        ),
        (
            [sight(0, Life.DEAD, written=1005.0), sight(1, Life.ENDED, ended="failed", error="ValueError: no")],
            "failed rank",
            [1],
            "rank 1 failed in step 7 (forward/backward): ValueError: no",
        ),
        ([sight(0), sight(1, Life.STOPPED)], "stopped process", [1], "kill -CONT 101"),
        ([sight(0), sight(3, Life.SILENT, here=False)], "silent rank", [3], "node1 cannot be reached"),
        ([sight(0), sight(1, phase="data", **HERE)], "slow loader", [1], "rank 1 waits for its loader (slow data) in step 7 since 0:01:00, while the others"),
        (  # it has not left an earlier one either
            [sight(0, left={"0": 39}), sight(1, phase="data", entered={"0": 40}, left={"0": 39})],
            "slow loader",
            [1],
            "while the others wait for it in collective 41",
        ),
        ([sight(0), sight(1, **HERE)], "hanging rank", [1], "rank 1 hangs in step 7 (forward/backward) since 0:01:00"),
        ([sight(0), sight(1, phase="save", step=6)], "unequal batches", [1], "rank 1 has left the training loop after step 6 and is in save"),
        ([sight(0), sight(1, Life.ENDED, ended="finished")], "unequal batches", [1], "rank 1 has left the training loop after step 7 and has ended"),
        (
            [sight(0, Life.ENDED, ended="failed", error="RuntimeError: Connection reset by peer"), sight(1, Life.ENDED, ended="finished", step=6)],
            "unequal batches",
            [1],
            "rank 1 left the training loop after step 6 and ended, while rank 0 waited for it in step 7",
        ),
        ([sight(0), sight(1)], "lost connection", [0, 1], "all ranks wait in the same collective, collective 41"),
        ([sight(0), sight(1, still=0.5)], "healthy", [], "rank 1 is in step 7"),
        ([sight(0, phase="meeting"), sight(1, phase="meeting")], "healthy", [], "the run has not begun: 2 of 4 ranks are here and wait for the others"),
        ([sight(0, phase="meeting"), sight(1, step=0, phase="start-up", entered={}, left={})], "hanging rank", [1], "rank 1 hangs in start-up"),
        ([sight(0, step_seconds=30.0), sight(1, step_seconds=30.0)], "healthy", [], "30 s a step"),
        ([sight(0, Life.ENDED, ended="stopped"), sight(1, Life.ENDED, ended="stopped")], "over", [], "the run is over: stopped at step 7"),
        ([sight(0, Life.DEAD), sight(1, Life.DEAD)], "dead rank", [0, 1], "the run was killed: no process of its 2 ranks is left"),
    ],
)
def test_the_culprit_is_named(seen, kind, ranks, words):
    found = diagnose(seen)
    assert (str(found.kind), found.ranks) == (kind, ranks)
    assert words in found.sentence


@pytest.mark.parametrize("culprit", [0, 1, 2])
@pytest.mark.parametrize("which", range(len(STEP)))
def test_a_rank_that_skips_a_collective_differs_from_what_came_before(culprit, which):
    usual = [*STEP * 3, *STEP[: which + 1]]
    skipped = [*STEP * 3, *STEP[:which], (STEP * 2)[which + 1]]
    found = first_difference({rank: calls(*(skipped if rank == culprit else usual), first=5, left=False) for rank in range(3)})
    assert found is not None
    assert (found.ranks, found.number, str(found.wanted).split(" ")[0], found.skipped) == ([culprit], 5 + 12 + which, STEP[which].split(" ")[0], True)


def test_of_two_ranks_the_one_that_departs_from_the_usual_is_named():
    usual, other = [*STEP * 3, STEP[0]], [*STEP * 3, "all_reduce [1]"]
    for culprit in (0, 1):
        found = first_difference({rank: calls(*(other if rank == culprit else usual)) for rank in (0, 1)})
        assert found is not None
        assert (found.ranks, found.skipped) == ([culprit], False)


def test_what_is_usual_is_told_by_the_longest_sequence_that_came_before():
    before = ["all_reduce [2]", "all_reduce [2]", "barrier [1]"] * 3 + ["all_reduce [2]", "all_reduce [2]"]
    found = first_difference({0: calls(*before, "all_reduce [9]"), 1: calls(*before, "barrier [1]")})
    assert found is not None
    assert (found.ranks, str(found.wanted)) == ([0], "barrier [1]")


def test_what_is_skipped_is_told_though_something_else_followed_last_time():
    step = ["all_reduce [2]", "all_reduce [9]", "barrier [1]"]
    before = [*step * 2, *step[:2], "barrier [1]", "all_gather [1]", "barrier [1]", *step[:2]]  # with a save, which has a barrier of its own
    found = first_difference({0: calls(*before, "barrier [1]"), 1: calls(*before, "all_reduce [2]")})
    assert found is not None
    assert (found.ranks, found.skipped) == ([1], True)


def test_nobody_is_named_where_nobody_can_tell():
    found = first_difference({0: calls("all_reduce [1]"), 1: calls("all_reduce [2]")})
    assert found is not None
    assert (found.ranks, found.wanted) == ([0, 1], None)


def test_ranks_may_bring_different_sizes_to_a_scatter():
    assert first_difference({0: calls("scatter [9]", "all_reduce [2]"), 1: calls("scatter [0]", "all_reduce [2]")}) is None


def test_the_same_sequence_as_far_as_it_is_known_is_no_difference():
    assert first_difference({0: calls(*STEP * 2), 1: calls(*(STEP * 2)[3:6], first=4)}) is None
