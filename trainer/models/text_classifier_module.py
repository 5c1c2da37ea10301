"""The module of `model=text_classifier`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainer.models.gpt_module import INITIAL_STD, Block, Embedding, rotary_table

NORM_EPS = 1e-5
ROPE_THETA = 10000.0


class Encoder(nn.Module):
    """Token ids to the logits of classes."""

    def __init__(self, *, layers: int, dim: int, heads: int, ffn_dim: int, vocab_size: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.head_dim = dim // heads
        residual_std = INITIAL_STD / math.sqrt(2 * layers)  # as in `Decoder`
        self.embed_tokens = Embedding(vocab_size, dim)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Block(dim, heads, heads, ffn_dim, NORM_EPS, residual_std, dropout) for _ in range(layers))
        self.norm = nn.RMSNorm(dim, NORM_EPS)
        self.head = nn.Linear(dim, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(batch, classes). Both inputs are (batch, length) int64; where the mask is 0 there is padding, which changes nothing. None: there is none.

        Each text has at least one token.
        """
        x = self.dropout(self.embed_tokens(input_ids))
        cos, sin = rotary_table(input_ids.shape[1], self.head_dim, ROPE_THETA, None, x)
        valid = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        seen = valid.bool()[:, None, None, :]  # also where all are: without a mask the blocks would look back only
        for layer in self.layers:
            x = layer(x, cos, sin, seen)
        weights = valid.to(x.dtype).unsqueeze(-1)
        mean = (self.norm(x) * weights).sum(1) / weights.sum(1)
        return self.head(self.dropout(mean))
