"""The module of a student and its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.compress.distilled import Distilled
from trainer.data.base import IGNORE


class Pair(nn.Module):
    """Is the student, but for `taught`: then it gives the loss of a batch, by its labels and by the teacher."""

    def __init__(self, knobs: Distilled, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.knobs, self.student, self.teacher = knobs, student, teacher

    def train(self, mode: bool = True) -> Self:
        """The teacher says the same in training."""
        super().train(mode)
        self.teacher.train(False)
        return self

    def forward(self, *args: Any, taught: Mapping[str, Tensor] | None = None, **kwargs: Any) -> Any:
        if taught is None:
            return self.student(*args, **kwargs)
        with torch.no_grad():
            theirs = self.knobs.teacher.outputs(self.teacher, taught)
        mine = self.knobs.student.outputs(self.student, taught)
        labels = taught["labels"]
        share = self.knobs.weight
        if labels.is_floating_point():
            valid = self.knobs.student.valid(labels)
            return (1 - share) * _squares(mine, labels, valid) + share * _squares(mine, theirs, valid)
        return (1 - share) * _cross_entropy(mine, labels) + share * divergence(mine, theirs, labels, self.knobs.temperature)


def divergence(mine: Tensor, theirs: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T^2 KL(theirs / T || mine / T), summed over the labels that are not IGNORE. mine, theirs: (..., classes); labels: (...)."""
    wide = torch.promote_types(mine.dtype, torch.float32)
    said, taught = (F.log_softmax(logits.to(wide) / temperature, dim=-1) for logits in (mine, theirs))
    each = F.kl_div(said, taught, reduction="none", log_target=True).sum(-1)
    return temperature**2 * (each * (labels != IGNORE)).sum()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    from trainer.models.cross_entropy import summed_cross_entropy

    return summed_cross_entropy(logits, labels)


def _squares(outputs: Tensor, wanted: Tensor, valid: Tensor) -> Tensor:
    wide = torch.promote_types(outputs.dtype, torch.float32)
    return ((outputs.to(wide).flatten() - wanted.to(wide).flatten()).square() * valid.flatten()).sum()
