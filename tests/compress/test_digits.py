"""Integers packed in bytes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainer.compress.binarize import Kind
from trainer.compress.digits import DIGITS, pack, packed_width, unpack


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
