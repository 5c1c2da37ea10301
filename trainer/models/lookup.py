"""Parameters that are only looked up, not multiplied: they cost no operations."""

from __future__ import annotations

from torch import nn


def input_embedding_numel(module: nn.Module) -> int:
    """Elements of embeddings that no other layer shares (a tied one is the output projection as well)."""
    others = {id(p) for m in module.modules() if not isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    looked_up = {id(m.weight): m.weight.numel() for m in module.modules() if isinstance(m, nn.Embedding)}
    return sum(numel for key, numel in looked_up.items() if key not in others)
