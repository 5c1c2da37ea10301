"""Layers that are trained as what quantization will make of them (Jacob et al. 2018, arXiv:1712.05877, section 3)."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from trainer.compress.exact import Straight, one_scale, to_levels
from trainer.compress.quantize import Kind
from trainer.compress.quantized import range_levels, register_range
from trainer.compress.rounding import grid, in_training
from trainer.compress.trained import Kept, TrainedConv2d, TrainedLinear


class FakeQuantized(Kept):
    """Weights, and activations where they will be integers, as what their integers stand for. Gradients go straight through the rounding."""

    kind: Kind
    group_size: int
    sparse: bool
    input_scale: Tensor
    input_zero_point: Tensor

    def set_knobs(self, kind: str, group_size: int, sparse: bool) -> Self:  # type: ignore[override]
        self.kind, self.group_size, self.sparse = Kind[kind], group_size, sparse
        if self.kind is Kind.int8_static:
            register_range(self)
        return self

    def reset_parameters(self) -> None:
        super().reset_parameters()  # type: ignore[misc]
        for buffer, value in zip(self.buffers(recurse=False), (1, 0), strict=False):
            buffer.fill_(value)

    def effective(self) -> Tensor:
        """Zeros of a `sparse` layer stay: they are 0 as integers too."""
        weight = super().effective() if self.sparse else self.weight
        rows = weight.flatten(1)
        return in_training(rows, grid(self.kind, rows.shape[1], self.group_size)).view_as(weight)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.rounded(x))  # type: ignore[misc]

    def rounded(self, x: Tensor) -> Tensor:
        """`x` as its integers will stand for it. What is beyond the range of a static layer has no gradient."""
        if self.kind is Kind.int8_dynamic:
            levels, scale = to_levels(x.detach(), one_scale(x, self.weight.ndim > 2))
            return Straight.apply(x, (levels * scale).to(x.dtype), None)  # type: ignore[return-value]
        if self.kind is Kind.int8_static:
            scale, zero_point = self.input_scale, self.input_zero_point
            value = ((range_levels(x.detach(), scale, zero_point) - zero_point) * scale).to(x.dtype)
            within = (x.detach() - value).abs() <= scale
            return Straight.apply(x, value, within)  # type: ignore[return-value]
        return x


class FakeQuantizedLinear(FakeQuantized, TrainedLinear):
    pass


class FakeQuantizedConv2d(FakeQuantized, TrainedConv2d):
    pass
