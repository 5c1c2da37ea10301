"""What `mlp`, `cnn` and `text_classifier` share: one prediction per sample. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.errors import ConfigError
from trainer.models.base import Model

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(kw_only=True)
class SupervisedModel(Model):
    """A batch has `labels`, (batch,) int64 for classes or floating for regression, and one other entry, the input.

    The module gives (batch, outputs): logits of the classes, or one value.
    """

    dropout: float = 0.0
    """The share of values that are left out in training; where, each model says."""

    def validate(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout={self.dropout}: must be at least 0 and below 1")

    def identity(self) -> dict[str, Any]:
        knobs = super().identity()
        del knobs["dropout"]
        return knobs

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy, or with floating labels squared error, summed over samples."""
        return _summed_loss(self.outputs(module, batch), batch["labels"])

    def outputs(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return module(_inputs(batch))

    def metrics(self, module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs, labels = self.outputs(module, batch), batch["labels"]
        sums = {"loss": _summed_loss(outputs, labels)}
        if not labels.is_floating_point():
            sums["accuracy"] = (outputs.argmax(-1) == labels).sum()
        return sums


def _inputs(batch: Mapping[str, Tensor]) -> Tensor:
    (inputs,) = (value for key, value in batch.items() if key != "labels")
    return inputs


def _summed_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    import torch
    import torch.nn.functional as F

    from trainer.models.cross_entropy import summed_cross_entropy

    if labels.is_floating_point():
        wide = torch.promote_types(outputs.dtype, torch.float32)
        return F.mse_loss(outputs.to(wide).flatten(), labels.to(wide).flatten(), reduction="sum")
    return summed_cross_entropy(outputs, labels)
