"""Trees of units: which are put together first."""

from __future__ import annotations

import numpy as np
import torch
from scipy.cluster.hierarchy import is_valid_linkage

from tests.explain.known import case, numbers
from trainer.explain.hierarchy import hierarchy


def _leaves(tree: np.ndarray) -> list[set[int]]:
    """What each inner node holds."""
    held = [{leaf} for leaf in range(len(tree) + 1)]
    for left, right, _, count in tree:
        held.append(held[int(left)] | held[int(right)])
        assert len(held[-1]) == count
    return held[len(tree) + 1 :]


def test_columns_that_correlate_are_together() -> None:
    rows = numbers(60, 6)
    rows[:, 4] = -rows[:, 0] + 0.01 * rows[:, 4]
    rows[:, 5] = 3  # constant
    of = case(lambda rows: rows.sum(1), numbers(6, seed=3), rows, torch.tensor([0, 1, 2, 2, 3, 4]))
    tree = hierarchy(of, torch.arange(5))
    assert is_valid_linkage(tree)
    assert _leaves(tree)[0] == {0, 3}
    assert _leaves(hierarchy(of, torch.tensor([1, 0, 3])))[0] == {1, 2}, "numbered among the players"


def test_tokens_are_halved_in_their_order() -> None:
    of = case(lambda rows: rows.flatten(1).sum(1), numbers(7, 2), numbers(1, 7, 2), torch.arange(7)[:, None].expand(7, 2))
    tree = hierarchy(of, torch.arange(7))
    assert is_valid_linkage(tree)
    assert {0, 1, 2} in _leaves(tree)
    assert {3, 4, 5, 6} in _leaves(tree)
    assert all(max(held) - min(held) == len(held) - 1 for held in _leaves(tree))


def test_regions_that_are_near_are_together() -> None:
    """Four regions, of which 0 and 2 are left, 1 and 3 are right."""
    regions = torch.tensor([[0, 0, 0, 0, 1, 1], [2, 2, 2, 2, 3, 3]])[None].expand(3, 2, 6)
    of = case(lambda rows: rows.flatten(1).sum(1), numbers(3, 2, 6), numbers(1, 3, 2, 6), regions)
    tree = hierarchy(of, torch.arange(4))
    assert is_valid_linkage(tree)
    assert sorted(map(sorted, _leaves(tree)[:2])) == [[0, 2], [1, 3]]


def test_many_columns_are_halved_too() -> None:
    of = case(lambda rows: rows.sum(1), numbers(3000), numbers(5, 3000, seed=1))
    tree = hierarchy(of, torch.arange(3000))
    assert is_valid_linkage(tree)
    assert set(range(1500)) in _leaves(tree)
