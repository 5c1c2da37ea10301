"""Layers that are trained while ever more of their weights are left out (Zhu and Gupta 2017, arXiv:1710.01878)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from trainer.compress.prune import Prune
from trainer.compress.pruning import kept
from trainer.compress.trained import Effective, TrainedConv2d, TrainedLinear

RAMP = 0.75  # of the training: then the share that is left out is the final one


class Masked(Effective):
    """Computes with the largest weights of each row. The others are kept, and have the gradients of those that would stand there:
    one that grows comes back. A function of the weights and the step alone, so no mask is stored."""

    sparsity: float
    group: tuple[int, int] | None
    share: float
    """Of the weights, how many this step leaves out."""

    def set_knobs(self, sparsity: float, pattern: str | None) -> Self:  # type: ignore[override]
        self.sparsity, self.group = sparsity, Prune(pattern=pattern).group()
        self.share = sparsity  # without training: the final one
        return self

    def begin_step(self, done: float) -> None:
        self.share = self.sparsity * (1 - (1 - min(done / RAMP, 1.0)) ** 3)

    def effective(self) -> Tensor:
        with torch.no_grad():
            keep = kept(self.weight.flatten(1).abs(), self.share, self.group).view_as(self.weight)
        return self.weight + (self.weight * keep - self.weight).detach()


class MaskedLinear(Masked, TrainedLinear):
    pass


class MaskedConv2d(Masked, TrainedConv2d):
    pass
