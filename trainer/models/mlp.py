"""`model=mlp`: a multi-layer perceptron for tables (or images, flattened), for classes or one number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainer.errors import ConfigError
from trainer.models.supervised import SupervisedModel

if TYPE_CHECKING:
    from torch import nn


@dataclass(kw_only=True)
class MLP(SupervisedModel):
    """Linear layers with GELU between them."""

    hidden: list[int] = field(default_factory=lambda: [128, 128])
    """Widths of the hidden layers; empty: linear (or logistic) regression."""
    dropout: float = 0.0
    """After each hidden layer."""

    def validate(self) -> None:
        super().validate()
        if any(width < 1 for width in self.hidden):
            raise ConfigError(f"model.hidden={self.hidden}: every width must be at least 1")

    def check(self, spec: Mapping[str, Any]) -> None:
        if "features" not in spec and "height" not in spec:
            raise ConfigError(
                f"model=mlp needs a table or images, but the data has {', '.join(sorted(spec))}. Choose data=tabular or data=images, or another model"
            )

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        from trainer.models.mlp_module import Perceptron

        features = int(spec["features"]) if "features" in spec else int(spec["channels"]) * int(spec["height"]) * int(spec["width"])
        return Perceptron([features, *self.hidden, int(spec.get("classes") or 1)], self.dropout)
