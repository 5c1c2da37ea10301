"""The ranks that tests run on: what they return, raise, and how they end."""

from __future__ import annotations

import os
import time

import pytest

from tests import ranks


def _sum_of_ranks(offset: int) -> int:
    import torch
    import torch.distributed as dist

    value = torch.tensor(dist.get_rank() + offset)
    dist.all_reduce(value)
    return int(value)


def _fail_on(rank: int) -> None:
    import torch.distributed as dist

    if dist.get_rank() == rank:
        raise ValueError("told to")


def _hang_on(rank: int) -> None:
    if os.environ["RANK"] == str(rank):
        time.sleep(100)


def _die_on(rank: int) -> None:
    if os.environ["RANK"] == str(rank):
        os._exit(3)


def _autograd() -> float:
    import torch

    x = torch.ones((), requires_grad=True)
    (3 * x).backward()
    assert x.grad is not None
    return x.grad.item()


def _world() -> str:
    return os.environ["WORLD_SIZE"] + os.environ["MARK"]


def test_each_rank_returns_its_result() -> None:
    assert ranks.run(2, _sum_of_ranks, 10) == [21, 21]
    assert ranks.run(1, _sum_of_ranks, 10) == [10]


def test_a_failed_rank_is_named_with_its_traceback() -> None:
    with pytest.raises(ranks.RankFailed, match=r"(?s)rank 1: .*_fail_on.*ValueError: told to"):
        ranks.run(2, _fail_on, 1)


def test_a_rank_that_hangs_is_killed_and_shown() -> None:
    with pytest.raises(ranks.RankFailed, match=r"(?s)rank 0: did not end within 1.0 s.*_hang_on"):
        ranks.run(2, _hang_on, 0, timeout=1.0)


def test_a_rank_that_dies_is_named() -> None:
    with pytest.raises(ranks.RankFailed, match=r"rank 1: died with wait status 768"):
        ranks.run(2, _die_on, 1)


def test_autograd_here_does_not_spoil_the_ranks() -> None:
    assert _autograd() == 3.0
    assert ranks.run(2, _autograd) == [3.0, 3.0]


def test_environment_and_no_group() -> None:
    assert ranks.run(2, _world, env={"MARK": "!"}, group=False) == ["2!", "2!"]
