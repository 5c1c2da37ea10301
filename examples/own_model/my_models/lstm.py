"""A model of your own: a plain `nn.Module`, and a dataclass that tells the trainer how to build it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.data.base import IGNORE
from trainer.models.base import Model


class LSTMDecoder(nn.Module):
    """Nothing here knows of the trainer."""

    def __init__(self, vocab_size: int, dim: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim)
        self.lstm = nn.LSTM(dim, dim, layers, batch_first=True)
        self.head = nn.Linear(dim, vocab_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        """input_ids: (batch, length); returns logits (batch, length, vocab)."""
        return self.head(self.lstm(self.embedding(input_ids))[0])


@dataclass(kw_only=True)
class LSTM(Model):
    """The fields are the knobs: `model.dim=256` on the command line."""

    dim: int = 128
    """Width of the embedding and of the hidden state."""
    layers: int = 1
    """Number of LSTM layers."""

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        """`spec` is what the data says of itself."""
        return LSTMDecoder(spec["vocab_size"], self.dim, self.layers)

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """A sum over the labels, never a mean: the trainer divides by their number over all processes."""
        logits = module(batch["input_ids"])
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORE, reduction="sum")
