"""Weights to the nearest of a few values, as torchao does it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.compress.quantize import Kind
from trainer.compress.quantized import HIGHEST, LOWEST


@contextmanager
def _quietly(*names: str) -> Iterator[None]:
    """Without what these loggers warn of on import: kernels for other devices, and a deprecation of PyTorch's."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


with _quietly("torchao", "torch.utils._pytree"):
    from torchao.quantization.quant_primitives import (
        MappingType,
        _fake_quantize_affine,
        choose_qparams_affine,
        choose_qparams_affine_with_min_max,
        dequantize_affine,
        quantize_affine,
    )


class Grid(NamedTuple):
    """What weights are rounded to."""

    mapping: MappingType
    dtype: torch.dtype
    low: int
    high: int
    group: int
    """Inputs that share a scale."""

    def block(self) -> tuple[int, int]:
        return (1, self.group)


class Rounded(NamedTuple):
    integers: Tensor
    """(outputs, inputs) of int8, or of uint8 in [0, 15]."""
    scale: Tensor
    """(outputs, groups) of fp32."""
    zero_point: Tensor
    """(outputs, groups) of uint8; all 0 for int8."""


def grid(kind: Kind, inputs: int, group_size: int) -> Grid:
    if kind is Kind.int4:
        return Grid(MappingType.ASYMMETRIC, torch.uint8, 0, 15, group_size)
    return Grid(MappingType.SYMMETRIC, torch.int8, -127, 127, inputs)


def round_rows(rows: Tensor, to: Grid) -> Rounded:
    """rows: (outputs, inputs)."""
    wide = rows.to(torch.float32).contiguous()
    scale, zero_point = _parameters(wide, to)
    if not len(rows):  # which torchao refuses
        return Rounded(rows.to(to.dtype), scale, zero_point.to(torch.uint8))
    integers = quantize_affine(wide, to.block(), scale, zero_point, to.dtype, to.low, to.high)
    return Rounded(integers, scale, zero_point.to(torch.uint8))


def values_of(found: Rounded, to: Grid) -> Tensor:
    """(outputs, inputs) of fp32: what the integers stand for."""
    return dequantize_affine(found.integers, to.block(), found.scale, found.zero_point, to.dtype, to.low, to.high)


def in_training(rows: Tensor, to: Grid) -> Tensor:
    """`values_of(round_rows(rows))`, bit by bit, with the gradient going straight through the rounding to `rows`."""
    wide = rows.to(torch.float32).contiguous()
    scale, zero_point = _parameters(wide.detach(), to)
    return _fake_quantize_affine(wide, to.block(), scale, zero_point, to.dtype, to.low, to.high).to(rows.dtype)


def of_range(least: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """The scale, and the zero point in int32, with which [least, largest] is [-128, 127]."""
    return choose_qparams_affine_with_min_max(
        least.to(torch.float32), largest.to(torch.float32), MappingType.ASYMMETRIC, (), torch.int8, LOWEST, HIGHEST, zero_point_dtype=torch.int32
    )


def _parameters(rows: Tensor, to: Grid) -> tuple[Tensor, Tensor]:
    block = (1, max(to.group, 2))  # a block of one is taken for the whole tensor; the range has 0 in it anyway
    padded = rows if to.group > 1 else F.pad(rows, (0, 1))
    found = choose_qparams_affine(padded, to.mapping, block, to.dtype, to.low, to.high)  # type: ignore[arg-type]
    scale, zero_point = (value.view(len(rows), rows.shape[1] // to.group) for value in found)
    return scale, zero_point
