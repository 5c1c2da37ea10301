"""Who has left out a collective where a save has its own in the same group: sequences as two ranks of DDP have entered them."""

from __future__ import annotations

import json

import pytest

from trainer.doctor.record import Collective
from trainer.doctor.sequence import first_difference

STEP = ["barrier", "all_reduce [2]", "all_reduce [12336]"]
"""A barrier of the model's own, the step's small all-reduce, and DDP's bucket."""
FIRST = [*STEP[:2], "all_reduce []", STEP[2], "broadcast [13]", "broadcast [1]", STEP[2]]
START = ["broadcast [2]", "broadcast [8]", "all_reduce []"]
AGREED = ["all_gather [1]", "all_gather [18]"]
PLANNED = ["all_gather [1]", "gather [7135]", "broadcast [1]", "scatter [2, 5954]", "scatter [2, 1]"]
WRITTEN = ["all_gather [1]", "gather [3473]", "broadcast [1]", "broadcast [6726]"]
SAVE = [*AGREED, *PLANNED, *WRITTEN, "all_gather [1]", "all_gather [134]", *AGREED]


def entered(names: list[str]) -> list[Collective]:
    split = [name.partition(" ") for name in names]
    return [Collective("0", 1 + i, name, [json.loads(size)] if size else [], True) for i, (name, _, size) in enumerate(split)]


def before(steps: int) -> list[str]:
    """What comes before the step after so many, with a save after each third."""
    return [*START, *(name for step in range(1, steps + 1) for name in [*(FIRST if step == 1 else STEP), *(SAVE if step % 3 == 0 else [])])]


@pytest.mark.parametrize("steps", range(2, 10))
@pytest.mark.parametrize("culprit", [0, 1])
def test_a_barrier_left_out_after_a_save(culprit: int, steps: int) -> None:
    came = before(steps)
    found = first_difference({rank: entered([*came, *(STEP[1:] if rank == culprit else STEP[:1])]) for rank in (0, 1)})
    assert found is not None
    assert (found.ranks, found.number, str(found.wanted), str(found.found), found.skipped) == ([culprit], len(came) + 1, "barrier", "all_reduce [2]", True)


@pytest.mark.parametrize("culprit", [0, 1])
def test_one_of_two_barriers_left_out_after_a_save(culprit: int) -> None:
    """A barrier for each of two micro-batches."""
    came = [*START, "barrier", *FIRST, *["barrier", *STEP] * 2, *SAVE, "barrier"]
    found = first_difference({rank: entered([*came, *(STEP[1:] if rank == culprit else STEP[:1])]) for rank in (0, 1)})
    assert found is not None
    assert (found.ranks, str(found.wanted), str(found.found), found.skipped) == ([culprit], "barrier", "all_reduce [2]", True)


@pytest.mark.parametrize("culprit", [0, 1])
def test_a_barrier_left_out_in_an_evaluation(culprit: int) -> None:
    """Under FSDP, after the all-reduce that asks whether to stop: in the step before it was not followed by a barrier."""
    forward = ["barrier", "all_gather [4104]", "all_gather [2064]"]
    step = [*forward, "all_reduce [2]", *forward[1:], "all_reduce [4128]", "all_reduce [8208]", "all_reduce []"]
    came = ["all_gather [1]", "all_gather [31]", *forward[1:], *START, *step, "all_reduce [2]", *forward * 4, "all_reduce [2]"]
    found = first_difference({rank: entered([*came, forward[rank == culprit]]) for rank in (0, 1)})
    assert found is not None
    assert (found.ranks, str(found.wanted), found.skipped) == ([culprit], "barrier", True)


@pytest.mark.parametrize("culprit", [0, 1])
def test_a_save_left_out(culprit: int) -> None:
    came = before(5)
    found = first_difference({rank: entered([*came, *STEP, *(STEP[:1] if rank == culprit else SAVE[:1])]) for rank in (0, 1)})
    assert found is not None
    assert (found.ranks, str(found.wanted), found.skipped) == ([culprit], "all_gather [1]", False)


def test_of_many_ranks_more_are_right_where_little_is_known() -> None:
    """Not after one collective that has come before, when most ranks have something else now."""
    came = [*START, *FIRST, *STEP, "all_gather [1]", "all_reduce [2]", *SAVE[2:4], "all_gather [1]"]
    found = first_difference({rank: entered([*came, "all_reduce [2]" if rank == 1 else "barrier"]) for rank in range(4)})
    assert found is not None
    assert (found.ranks, str(found.wanted)) == ([1], "barrier")
