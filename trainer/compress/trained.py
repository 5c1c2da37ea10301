"""Layers that are trained as what they will become: the plain layer's parameters under the plain layer's names, computing with `effective()` weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.compress.form import CompressedLayer


class Effective(CompressedLayer):
    """What a method brings: mix it in before `TrainedLinear` and `TrainedConv2d`."""

    weight: nn.Parameter

    def set_knobs(self, **knobs: Any) -> Self:
        """Take what the form says; returns itself."""
        return self

    @abstractmethod
    def effective(self) -> Tensor:
        """The weights that this pass computes with, of the shape of `weight`, made so that gradients come to `weight`."""


class TrainedLinear(Effective, nn.Linear):
    @classmethod
    def replacing(cls, original: nn.Module, **knobs: Any) -> Self:
        assert isinstance(original, nn.Linear)
        return cls(original.in_features, original.out_features, original.bias is not None).set_knobs(**knobs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.effective(), self.bias)


class TrainedConv2d(Effective, nn.Conv2d):
    @classmethod
    def replacing(cls, original: nn.Module, **knobs: Any) -> Self:
        assert isinstance(original, nn.Conv2d)
        shape: Any = {key: getattr(original, key) for key in ("stride", "padding", "dilation", "groups", "padding_mode")}
        return cls(original.in_channels, original.out_channels, original.kernel_size, bias=original.bias is not None, **shape).set_knobs(**knobs)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.effective(), self.bias)


class Kept(Effective):
    """Zeros stay zeros: their gradients are zero, and so is all that an optimizer that begins with them makes of it."""

    def effective(self) -> Tensor:
        return _KeepZeros.apply(self.weight)  # type: ignore[return-value]


class KeptLinear(Kept, TrainedLinear):
    pass


class KeptConv2d(Kept, TrainedConv2d):
    pass


class _KeepZeros(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        return grad * (weight != 0)
