"""A decoder in the shape of Llama. Parameters have the names of transformers' `LlamaModel`, and the
rotary embedding its rotate-half convention, so that exporting is adding the prefix "model."."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.cross_entropy import projected_cross_entropy

if TYPE_CHECKING:
    from trainer.models.gpt import RopeScaling

INITIAL_STD = 0.02


class Linear(nn.Linear):
    """A projection without bias whose initial values are normal(0, std)."""

    def __init__(self, inputs: int, outputs: int, std: float = INITIAL_STD) -> None:
        self.std = std  # before super(), which calls reset_parameters
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)


class Embedding(nn.Embedding):
    """An embedding whose initial values are normal(0, 0.02)."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=INITIAL_STD)


class Attention(nn.Module):
    """Causal self-attention with grouped queries (Ainslie et al. 2023, arXiv:2305.13245)."""

    def __init__(self, dim: int, heads: int, kv_heads: int, residual_std: float) -> None:
        super().__init__()
        self.head_dim = dim // heads
        self.grouped = kv_heads != heads
        self.q_proj = Linear(dim, heads * self.head_dim)
        self.k_proj = Linear(dim, kv_heads * self.head_dim)
        self.v_proj = Linear(dim, kv_heads * self.head_dim)
        self.o_proj = Linear(heads * self.head_dim, dim, residual_std)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """x: (batch, length, dim); cos, sin: (length, head_dim); mask: (batch, 1, length, length), True where a key is seen."""
        q, k, v = (proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=self.grouped)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, dim: int, ffn_dim: int, residual_std: float) -> None:
        super().__init__()
        self.gate_proj = Linear(dim, ffn_dim)
        self.up_proj = Linear(dim, ffn_dim)
        self.down_proj = Linear(ffn_dim, dim, residual_std)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and feed-forward, each after RMSNorm and added to the residual stream."""

    def __init__(self, dim: int, heads: int, kv_heads: int, ffn_dim: int, norm_eps: float, residual_std: float, dropout: float) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(dim, norm_eps)
        self.self_attn = Attention(dim, heads, kv_heads, residual_std)
        self.post_attention_layernorm = nn.RMSNorm(dim, norm_eps)
        self.mlp = FeedForward(dim, ffn_dim, residual_std)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """Shapes as in `Attention`."""
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), cos, sin, mask))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class Decoder(nn.Module):
    """Token ids to logits, or with labels to the summed loss."""

    def __init__(
        self,
        *,
        layers: int,
        dim: int,
        heads: int,
        kv_heads: int,
        ffn_dim: int,
        vocab_size: int,
        rope_theta: float,
        rope_scaling: RopeScaling | None,
        norm_eps: float,
        tie_embeddings: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.head_dim, self.rope_theta, self.rope_scaling = dim // heads, rope_theta, rope_scaling
        # Residual projections are scaled down so that the stream's variance does not grow with depth (GPT-2, section 2.3).
        residual_std = INITIAL_STD / math.sqrt(2 * layers)
        self.embed_tokens = Embedding(vocab_size, dim)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Block(dim, heads, kv_heads, ffn_dim, norm_eps, residual_std, dropout) for _ in range(layers))
        self.norm = nn.RMSNorm(dim, norm_eps)
        self.lm_head = Linear(dim, vocab_size)
        if tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, document_ids: Tensor | None = None) -> Tensor:
        """Logits (batch, length, vocab), or with `labels` the cross-entropy summed over those that are not IGNORE.

        All inputs are (batch, length) int64. With `document_ids` a token attends only to tokens of its
        own document. Positions need not restart there: rotary attention depends on differences alone.
        """
        x = self.dropout(self.embed_tokens(input_ids))
        cos, sin = rotary_table(input_ids.shape[1], self.head_dim, self.rope_theta, self.rope_scaling, x)
        mask = None if document_ids is None else document_mask(document_ids)
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        x = self.norm(x)
        return self.lm_head(x) if labels is None else projected_cross_entropy(self.lm_head, x, labels)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + half]) by its angle (Su et al. 2021, arXiv:2104.09864). x: (batch, heads, length, head_dim)."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def rotary_table(length: int, head_dim: int, theta: float, scaling: RopeScaling | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, head_dim) in the dtype and on the device of `like`.

    Computed in every pass, which is cheap, and not kept in a buffer, which sharding, casting to
    bf16 or building on the meta device could spoil.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    frequencies = theta ** (-torch.arange(0, head_dim, 2, device=like.device, dtype=dtype) / head_dim)
    if scaling is not None:
        turns = scaling.original_max_seq_len * frequencies / (2 * math.pi)
        keep = ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(0, 1)
        frequencies = frequencies * (keep + (1 - keep) / scaling.factor)
    angles = torch.outer(torch.arange(length, device=like.device, dtype=dtype), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def document_mask(document_ids: Tensor) -> Tensor:
    """(batch, 1, length, length), True where the key is in the query's document and not after it."""
    same = document_ids.unsqueeze(2) == document_ids.unsqueeze(1)
    return same.tril().unsqueeze(1)
