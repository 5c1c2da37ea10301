"""Layers whose weights are integers. They need nothing but PyTorch: what made them is in `trainer.compress.integers`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.compress.exact import Window, one_scale, product, to_levels
from trainer.compress.form import CompressedLayer

LOWEST, HIGHEST = -128, 127  # levels of what goes into a static layer


class Quantized(CompressedLayer):
    """What all have: `scale`, and `bias` if the layer had one."""

    def __init__(self, original: nn.Linear | nn.Conv2d, weight: tuple[int, ...], dtype: torch.dtype, scale: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = _fixed(weight, dtype)
        self.scale = _fixed(scale, torch.get_default_dtype())
        self.bias = None if original.bias is None else nn.Parameter(torch.empty(len(original.weight)))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Zero, until a checkpoint is loaded."""
        for value in (*self.parameters(recurse=False), *self.buffers(recurse=False)):
            value.zero_()


class Int8(Quantized):
    """int8 `weight` as the plain layer has it, one scale for each output."""

    def __init__(self, original: nn.Linear | nn.Conv2d) -> None:
        super().__init__(original, tuple(original.weight.shape), torch.int8, (len(original.weight),))
        self.window = Window.of(original) if isinstance(original, nn.Conv2d) else None

    @classmethod
    def replacing(cls, original: nn.Module, **_: Any) -> Self:
        assert isinstance(original, (nn.Linear, nn.Conv2d))
        return cls(original)

    def _by_output(self, values: Tensor) -> Tensor:
        """Values of the outputs as they stand in what comes out."""
        return values if self.window is None else values.view(-1, 1, 1)

    def _with_bias(self, y: Tensor) -> Tensor:
        return y if self.bias is None else y + self._by_output(self.bias.to(y.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """In the arithmetic of `x`: (x Q^T) s + b."""
        weight = self.weight.to(x.dtype)
        y = F.linear(x, weight) if self.window is None else self.window.convolution(self.window.padded(x), weight)
        return self._with_bias(y * self._by_output(self.scale.to(x.dtype)))


class Integer(Int8):
    """Multiplies integers with integers: what comes in is rounded to levels first."""

    @abstractmethod
    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Integers in [-128, 127], as floats, of the shape of `x`; their scale; and their zero point, if there is one."""

    def sums(self, levels: Tensor, zero_point: Tensor | None) -> Tensor:
        """The exact sums of products of `levels`, less the zero point, with the weights, in int32."""
        if self.window is not None:
            padded = self.window.padded(levels) if zero_point is None else self.window.padded(levels - zero_point) + zero_point
            return self.window.sums(padded.to(torch.int8), self.weight)
        return product(levels.to(torch.int8).reshape(-1, levels.shape[-1]), self.weight).view(*levels.shape[:-1], -1)

    def forward(self, x: Tensor) -> Tensor:
        levels, scale, zero_point = self.levels(x)
        y = self.sums(levels, zero_point).to(torch.float32).mul_(scale).mul_(self._by_output(self.scale))
        return self._with_bias(y.to(x.dtype))


class Dynamic(Integer):
    """With a scale for each token, or image, from its largest magnitude."""

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return (*to_levels(x, one_scale(x, self.window is not None)), None)


class Static(Integer):
    """With one scale and zero point, which calibration has found. `weight_sums`: of each output's integers, for what the zero point adds."""

    input_scale: Tensor
    input_zero_point: Tensor

    def __init__(self, original: nn.Linear | nn.Conv2d) -> None:
        super().__init__(original)
        self.weight_sums = _fixed((len(original.weight),), torch.int32)
        register_range(self)

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return range_levels(x, self.input_scale, self.input_zero_point), self.input_scale, self.input_zero_point

    def sums(self, levels: Tensor, zero_point: Tensor | None) -> Tensor:
        return super().sums(levels, zero_point).sub_(zero_point * self._by_output(self.weight_sums))  # type: ignore[operator]


class Int4Linear(Quantized):
    """(q - zero point) s for each weight, with q of 4 bits in [0, 15]: two in a byte, the first in the low bits."""

    def __init__(self, original: nn.Linear, group_size: int) -> None:
        outputs, inputs = original.weight.shape
        super().__init__(original, (outputs, inputs // 2), torch.uint8, (outputs, inputs // group_size))
        self.zero_point = _fixed((outputs, inputs // group_size), torch.uint8)

    @classmethod
    def replacing(cls, original: nn.Module, *, group_size: int) -> Self:
        assert isinstance(original, nn.Linear)
        return cls(original, group_size)

    def meant(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        digits, zero_point = unpack4(values["weight"], torch.int8), values["zero_point"].to(torch.int8)
        return {**values, "weight": digits - zero_point.repeat_interleave(digits.shape[1] // zero_point.shape[1], 1)}

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """(outputs, inputs)."""
        values = unpack4(self.weight, dtype).view(*self.scale.shape, -1)
        return values.sub_(self.zero_point.unsqueeze(-1).to(dtype)).mul_(self.scale.unsqueeze(-1).to(dtype)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantized(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


def pack4(digits: Tensor) -> Tensor:
    """(rows, inputs / 2) of uint8 for (rows, inputs) of [0, 15]."""
    return digits[:, ::2] | digits[:, 1::2] << 4


def unpack4(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """(rows, inputs): what `pack4` was given."""
    if torch.compiler.is_exporting():
        packed = packed.to(torch.int32)  # other runtimes cannot shift a byte
    return torch.stack((packed & 15, packed >> 4), 2).flatten(1).to(dtype)


def register_range(layer: nn.Module) -> None:
    """Give `layer` a scale and a zero point for all that comes in."""
    layer.register_buffer("input_scale", torch.ones(()))
    layer.register_buffer("input_zero_point", torch.zeros((), dtype=torch.int32))


def range_levels(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """`x` as integers, as floats in fp32: beyond the range that they stand for its ends."""
    return (x.to(torch.float32) / scale).round_().add_(zero_point).clamp_(LOWEST, HIGHEST)


def _fixed(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)
