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
    count, places = DIGITS[kind][0], packed.flatten().to(torch.int32)
    table, shape = _table(kind, packed.device), (len(packed), packed.shape[1] * count)
    if torch.compiler.is_exporting():  # other runtimes cannot take bytes for a word
        return table.index_select(0, places).view(shape)[:, :inputs]
    return table.view(WORDS[count]).flatten().index_select(0, places).view(torch.int8).view(shape)[:, :inputs]


def _shifts(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, dtype=torch.int32, device=device) * (8 // count)


def _made(kind: Kind) -> Tensor:
    """(256, digits in a byte) of int8: those of each byte."""
    count, values = DIGITS[kind]
    codes, device = 2 ** (8 // count), torch.device("cpu")
    meant = torch.tensor([*values, *[0] * (codes - len(values))], dtype=torch.int8, device=device)  # the fourth of two bits is never written
    return meant[(torch.arange(256, device=device).unsqueeze(1) >> _shifts(count, device)) & (codes - 1)]


TABLES = {kind: _made(kind) for kind in DIGITS}  # not in the first pass, which may be one over tensors without values


@functools.cache
def _table(kind: Kind, device: torch.device) -> Tensor:
    return TABLES[kind].to(device)
