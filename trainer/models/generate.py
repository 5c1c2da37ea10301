"""Generate tokens from a language model that may be sharded: each step is one forward pass on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def generate(
    module: nn.Module,
    prompt: Sequence[int],
    *,
    count: int,
    window: int,
    vocab_size: int,
    temperature: float,
    device: Any,
    seed: int = 0,
) -> list[int]:
    """`prompt` followed by `count` tokens, all below `vocab_size`.

    Every pass has the shape (1, `window`), padded on the right, so that nothing is recompiled, and
    there are exactly `count` passes: under FSDP each is a collective that all ranks must join.
    The generator is on the CPU and seeded, so the ranks draw the same tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt)
    was_training = module.training
    module.eval()
    try:
        for _ in range(count):
            context = tokens[-window:]
            inputs = torch.zeros(1, window, dtype=torch.long)
            inputs[0, : len(context)] = torch.tensor(context)
            logits = logits_of(module(inputs.to(device)))[0, len(context) - 1, :vocab_size]
            tokens.append(_draw(logits.float().cpu(), temperature, generator))
    finally:
        module.train(was_training)
    return tokens


def logits_of(output: Any) -> Tensor:
    """The logits of our own modules (a tensor) and of transformers' (an output with `.logits`)."""
    return output if isinstance(output, Tensor) else output.logits


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
