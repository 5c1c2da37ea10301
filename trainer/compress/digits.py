"""Integers of a few values, several in a byte, and exact products with them."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.compress.binarize import Kind

DIGITS = {Kind.binary: (8, (-1, 1)), Kind.ternary: (4, (-1, 0, 1))}
"""How many are in a byte, the first in its lowest bits, and the integers that they stand for from 0 on."""
WORDS = {8: torch.int64, 4: torch.int32}  # as many bytes as digits in a byte: one look-up gives them all
LEVELS = 127


def packed_width(kind: Kind, inputs: int) -> int:
    """Bytes of a row."""
    return -(-inputs // DIGITS[kind][0])


def pack(kind: Kind, digits: Tensor) -> Tensor:
    """(rows, inputs) of the integers of `kind` as (rows, bytes) of uint8. What fills the last byte of a row is 0 bits."""
    count, (least, second, *_) = DIGITS[kind]
    rows, inputs = digits.shape
    codes = F.pad((digits.to(torch.int32) - least) // (second - least), (0, -inputs % count))
    return (codes.view(rows, packed_width(kind, inputs), count) << _shifts(count, digits.device)).sum(2).to(torch.uint8)


def unpack(kind: Kind, packed: Tensor, inputs: int) -> Tensor:
    """(rows, inputs) of int8: what `pack` was given."""
    words = _words(kind, packed.device).index_select(0, packed.flatten().to(torch.int32))
    return words.view(torch.int8).view(len(packed), packed.shape[1] * DIGITS[kind][0])[:, :inputs]


def _shifts(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, dtype=torch.int32, device=device) * (8 // count)


@functools.cache
def _words(kind: Kind, device: torch.device) -> Tensor:
    """(256,): for each byte its digits as the bytes of one integer."""
    count, values = DIGITS[kind]
    codes = 2 ** (8 // count)
    meant = torch.tensor([*values, *[0] * (codes - len(values))], dtype=torch.int8, device=device)  # the fourth of two bits is never written
    return meant[(torch.arange(256, device=device).unsqueeze(1) >> _shifts(count, device)) & (codes - 1)].view(WORDS[count]).flatten()


def to_levels(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Integers in [-127, 127], as floats, and the scale with which they are `x`, in fp32: one for all of `dims`."""
    wide = x.to(torch.float32)
    scale = wide.abs().amax(dims, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny * LEVELS) / LEVELS
    return (wide / scale).round(), scale


def product(x: Tensor, digits: Tensor) -> Tensor:
    """(tokens, outputs) of int32: x (tokens, inputs) times digits (outputs, inputs) transposed, both of int8, exactly."""
    if x.device.type == "cpu" and digits.shape[1] > 1:  # with one input, that of PyTorch 2.13 is wrong
        return torch._int_mm(x, digits.t())
    return product_of_floats(x, digits)


def product_of_floats(x: Tensor, digits: Tensor) -> Tensor:
    """`product` where there is none of integers: sums of so many products are exact in these floats, in any order."""
    dtype = torch.float32 if digits.shape[1] * LEVELS <= 2**24 else torch.float64
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.to(dtype), digits.to(dtype)).to(torch.int32)
