"""Cross-entropy summed over labels, in at least fp32, without the logits of a whole batch in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.data.base import IGNORE

LOGITS_AT_ONCE = 2**27
"""Elements: 512 MiB in fp32."""


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the labels that are not IGNORE. logits: (..., vocab); labels: (...), int64."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, -2), labels.flatten(), ignore_index=IGNORE, reduction="sum")


def projected_cross_entropy(project: nn.Linear, hidden: Tensor, labels: Tensor) -> Tensor:
    """`summed_cross_entropy(project(hidden), labels)`; large logits are made piece by piece, and again in backward.

    hidden: (batch, length, dim); labels: (batch, length).
    """
    return _in_pieces(lambda x, y: summed_cross_entropy(project(x), y), hidden, labels, project.out_features)


def widened_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """`summed_cross_entropy(logits, labels)`; large logits in half precision are widened piece by piece.

    logits: (batch, length, vocab); labels: (batch, length).
    """
    return _in_pieces(summed_cross_entropy, logits, labels, logits.shape[-1])


def _in_pieces(loss: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, labels: Tensor, vocab: int) -> Tensor:
    pieces = -(-labels.numel() * vocab // LOGITS_AT_ONCE)
    if pieces <= 1:
        return loss(inputs, labels)
    parts = zip(inputs.flatten(0, 1).chunk(pieces), labels.flatten().chunk(pieces), strict=True)
    return torch.stack([checkpoint(loss, x, y, use_reentrant=False, preserve_rng_state=False) for x, y in parts]).sum()
