"""Layers that are trained while ever more of their weights are left out (Zhu and Gupta 2017, arXiv:1710.01878)."""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.compress.form import CompressedLayer
from trainer.compress.prune import Prune
from trainer.compress.pruning import kept

RAMP = 0.75  # of the training: then the share that is left out is the final one


class Masked(CompressedLayer):
    """Computes with the largest weights of each row. The others are kept, and have the gradients of those that would stand there:
    one that grows comes back. A function of the weights and the step alone, so no mask is stored."""

    weight: nn.Parameter
    knobs: Prune
    share: float

    def set_knobs(self, knobs: dict[str, Any]) -> Self:
        """Take what `form` was given; without training, the share is the final one."""
        self.knobs = Prune(**knobs)
        self.share = self.knobs.sparsity
        return self

    def begin_step(self, done: float) -> None:
        self.share = self.knobs.sparsity * (1 - (1 - min(done / RAMP, 1.0)) ** 3)

    def masked(self) -> Tensor:
        """The weights that count in this step."""
        with torch.no_grad():
            keep = kept(self.weight.flatten(1).abs(), self.share, self.knobs.group()).view_as(self.weight)
        return self.weight + (self.weight * keep - self.weight).detach()


class MaskedLinear(Masked, nn.Linear):
    @classmethod
    def replacing(cls, original: nn.Module, **knobs: Any) -> Self:
        assert isinstance(original, nn.Linear)
        return cls(original.in_features, original.out_features, original.bias is not None).set_knobs(knobs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.masked(), self.bias)


class MaskedConv2d(Masked, nn.Conv2d):
    @classmethod
    def replacing(cls, original: nn.Module, **knobs: Any) -> Self:
        assert isinstance(original, nn.Conv2d)
        shape: Any = {key: getattr(original, key) for key in ("stride", "padding", "dilation", "groups", "padding_mode")}
        return cls(original.in_channels, original.out_channels, original.kernel_size, bias=original.bias is not None, **shape).set_knobs(knobs)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.masked(), self.bias)
