"""What is pruned, on its own and over ranks."""

from __future__ import annotations

import pytest
import torch

from trainer.compress.pruning import kept, least


def test_the_least_important_go_and_of_equal_ones_the_last():
    importance = torch.tensor([[3.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert least(importance, 2).tolist() == [[False, True, False, True], [False, False, True, True]]


def test_exactly_the_share_of_each_row_goes():
    torch.manual_seed(0)
    keep = kept(torch.rand(5, 40), 0.3, None)
    assert keep.sum(1).tolist() == [28] * 5


@pytest.mark.parametrize("inputs", [8, 10])
def test_of_each_group_the_most_important_stay(inputs):
    torch.manual_seed(0)
    importance = torch.rand(6, inputs)
    keep = kept(importance, 0.5, (2, 4))
    for row, mask in zip(importance, keep, strict=True):
        for start in range(0, inputs, 4):
            group, stays = row[start : start + 4], mask[start : start + 4]
            assert int(stays.sum()) == 2
            assert group[stays].min() >= (group[~stays].max() if (~stays).any() else 0.0)
