"""Integers of a few values, several in a byte."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.compress.binarize import Kind

DIGITS = {Kind.binary: (8, (-1, 1)), Kind.ternary: (4, (-1, 0, 1))}
"""How many are in a byte, the first in its lowest bits, and the integers that they stand for from 0 on."""
WORDS = {8: torch.int64, 4: torch.int32}  # as many bytes as digits in a byte: one look-up gives them all


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
