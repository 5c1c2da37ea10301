"""Integers packed in bytes, and products with them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainer.compress.binarize import Kind
from trainer.compress.digits import DIGITS, pack, packed_width, product, product_of_floats, to_levels, unpack


def drawn(kind: Kind, *shape: int) -> Tensor:
    torch.manual_seed(0)
    values = torch.tensor(DIGITS[kind][1], dtype=torch.int8)
    return values[torch.randint(len(values), shape)]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("inputs", [1, 4, 7, 8, 9, 64])
def test_what_is_packed_comes_out_again(kind: Kind, rows: int, inputs: int) -> None:
    digits = drawn(kind, rows, inputs)
    packed = pack(kind, digits.float())
    assert packed.dtype == torch.uint8
    assert unpack(kind, packed, inputs).equal(digits)


@pytest.mark.parametrize(("kind", "share"), [(Kind.binary, 32), (Kind.ternary, 16)])
def test_bytes_are_the_share_of_fp32_that_is_said(kind: Kind, share: int) -> None:
    digits = drawn(kind, 6, 96)
    assert pack(kind, digits).nbytes * share == digits.float().nbytes
    assert packed_width(kind, 96) == pack(kind, digits).shape[1]


def test_bits_lie_in_a_byte_from_the_lowest_on() -> None:
    assert pack(Kind.binary, torch.tensor([[1, -1, -1, 1, -1, -1, -1, 1]])).tolist() == [[0b10001001]]
    assert pack(Kind.ternary, torch.tensor([[-1, 0, 1, 1, 1]])).tolist() == [[0b10100100, 0b10]]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("shape", [(1, 13, 7), (5, 1030, 3), (33, 64, 40), (6, 1, 5)])
def test_products_are_those_of_int64(kind: Kind, shape: tuple[int, int, int]) -> None:
    tokens, inputs, outputs = shape
    digits = drawn(kind, outputs, inputs)
    x = torch.randint(-127, 128, (tokens, inputs), dtype=torch.int8)
    for right in (digits, unpack(kind, pack(kind, digits), inputs)):  # of which the second need not be contiguous
        assert product(x, right).to(torch.int64).equal(x.to(torch.int64) @ digits.to(torch.int64).t())


@pytest.mark.parametrize("way", [product, product_of_floats])
@pytest.mark.parametrize("inputs", [1001, 300_001])  # 127 of each: the second beyond what fp32 counts
def test_the_largest_sums_are_exact(way: Callable[[Tensor, Tensor], Tensor], inputs: int) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = way(torch.full((1, inputs), 127, dtype=torch.int8), torch.ones(1, inputs, dtype=torch.int8))
    assert sums.tolist() == [[127 * inputs]]


def test_levels_are_the_nearest_and_their_scale_is_the_greatest_of_each_token() -> None:
    x = torch.tensor([[0.0, 0.0], [1.016, -2.54], [127.0, 0.6]])
    levels, scale = to_levels(x, (-1,))
    assert levels.tolist() == [[0, 0], [51, -127], [127, 1]]
    torch.testing.assert_close(scale[1:], torch.tensor([[0.02], [1.0]]))
    assert to_levels(torch.tensor([[float("nan"), 1.0]]), (-1,))[1].isnan().all()  # and not lost in the integers
