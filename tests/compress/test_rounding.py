"""Weights as integers, at their edges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainer.compress.quantize import Kind
from trainer.compress.rounding import grid, in_training, of_range, round_rows, values_of

GRIDS = [grid(Kind.int8, 24, 4), grid(Kind.int4, 24, 4), grid(Kind.int4, 24, 24)]


def rows() -> Tensor:
    """With one row of zeros, one that is all positive, and one with zeros among others."""
    found = torch.randn(6, 24, generator=torch.Generator().manual_seed(0)) * torch.logspace(-30, 3, 6).unsqueeze(1)
    found[1] = 0.0
    found[2].abs_()
    found[3, ::3] = 0.0
    return found


@pytest.mark.parametrize("to", GRIDS)
def test_each_weight_is_the_nearest_and_zeros_stay(to) -> None:
    found = round_rows(rows(), to)
    assert found.integers.dtype == to.dtype
    assert found.integers.min() >= to.low
    assert found.integers.max() <= to.high
    stands_for = values_of(found, to)
    step = found.scale.repeat_interleave(24 // found.scale.shape[1], 1)
    most = 0.5 if to.low < 0 else 1.0  # a zero point that is rounded moves one end by up to half a step, and what is there is clipped
    assert ((stands_for - rows()).abs() <= (most + 1e-4) * step).all()
    assert (stands_for[rows() == 0] == 0).all()


def test_int8_uses_the_whole_range_of_each_row() -> None:
    found = round_rows(rows(), GRIDS[0])
    largest = found.integers.abs().amax(1)
    assert largest.tolist() == [127, 0, 127, 127, 127, 127]
    assert not found.zero_point.any()


@pytest.mark.parametrize("to", GRIDS)
def test_a_rank_without_rows_has_none(to) -> None:
    found = round_rows(torch.empty(0, 24), to)
    assert found.integers.shape == (0, 24)
    assert found.scale.shape == (0, 24 // to.group)
    assert values_of(found, to).shape == (0, 24)


def test_one_input_has_a_scale_for_each_row_too() -> None:
    to = grid(Kind.int8, 1, 4)
    column = torch.tensor([[2.0], [-3.0], [0.0]])
    found = round_rows(column, to)
    assert found.integers.tolist() == [[127], [-127], [0]]
    assert torch.allclose(values_of(found, to), column)
    assert torch.allclose(in_training(column, to), column)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("to", GRIDS)
def test_training_computes_with_what_the_integers_will_stand_for(to, dtype: torch.dtype) -> None:
    weight = rows().to(dtype).requires_grad_()
    trained = in_training(weight, to)
    assert trained.dtype == dtype
    assert torch.equal(trained, values_of(round_rows(weight.detach(), to), to).to(dtype))
    (grad,) = torch.autograd.grad(trained.sum(), weight)
    clipped = to.low == 0  # only what a rounded zero point leaves outside
    assert grad.mean() > 0.9 if clipped else torch.equal(grad, torch.ones_like(grad))


def test_a_range_becomes_256_levels_with_0_among_them() -> None:
    scale, zero_point = of_range(torch.tensor(-1.0, dtype=torch.float64), torch.tensor(4.1, dtype=torch.float64))
    assert scale.item() == pytest.approx(5.1 / 255)
    assert zero_point.item() == -128 + 50
    assert (scale.dtype, zero_point.dtype) == (torch.float32, torch.int32)
