"""A loss that is not a sum over samples is not the same on any number of ranks: it is refused."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from trainer.data.base import Samples
from trainer.models.base import Model

TOLERANCE = 1e-5
"""Relative: well above the rounding of fp32, well below what a mean or a batch statistic changes."""


def not_a_sum(model: Model, module: nn.Module, samples: Samples, indices: Sequence[int]) -> str | None:
    """None where the loss of a batch is the sum of the losses of its samples, else what is wrong.

    `module` is on the CPU, in fp32 or fp64, without dropout.
    """
    module.train()
    with torch.no_grad():
        try:
            singles = [float(model.loss(module, samples.batch([index]))) for index in indices]
            said_parts = "one by one their losses sum to"
        except ValueError:  # batch normalisation takes no single sample
            half = len(indices) // 2
            singles = [float(model.loss(module, samples.batch(list(part)))) for part in (indices[:half], indices[half:])]
            said_parts = "the losses of their halves sum to"
        batch = samples.batch(list(indices))
        whole, again = float(model.loss(module, batch)), float(model.loss(module, batch))
    name, n, total = type(model).__name__, len(indices), sum(singles)
    margin = TOLERANCE * sum(abs(single) for single in singles)
    if not abs(whole - again) <= margin:
        return (
            f"{name}.loss of one batch is {whole:.6g}, and {again:.6g} when computed again: it draws random numbers or changes the model; "
            "make it a function of the weights and the batch"
        )
    if abs(whole - total) <= margin:
        return None
    said = f"{name}.loss of {n} samples together is {whole:.6g}, but {said_parts} {total:.6g}"
    if any(abs(whole * count - total) <= 1e-2 * abs(total) for count in (len(singles), model.count(batch))):
        return f"{said}: it is a mean; return the sum (reduction='sum'): the trainer divides by the count of the global batch"
    return (
        f"{said}: the loss of a sample depends on the others (batch normalisation?), so it changes with the number of ranks; "
        "use a norm within samples (LayerNorm, GroupNorm)"
    )
