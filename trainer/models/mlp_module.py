"""The module of `model=mlp`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from trainer.models.inputs import as_taken


class Perceptron(nn.Module):
    """Linear layers of `widths` with GELU and dropout after all but the last."""

    def __init__(self, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths))
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, ...) with widths[0] values per sample; returns (batch, widths[-1])."""
        x = as_taken(x.flatten(1), self.layers[0])
        for layer in self.layers[:-1]:
            x = self.dropout(self.activation(layer(x)))
        return self.layers[-1](x)
