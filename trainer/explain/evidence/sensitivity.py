"""Sensitivity-max (Yeh et al. 2019, arXiv:1901.09392, section 4): how far the values move when the inputs hardly do."""

from __future__ import annotations

import dataclasses

import torch

from trainer.explain.base import Explainer
from trainer.explain.case import Attribution, Case
from trainer.explain.evidence.budget import NEARBY
from trainer.explain.evidence.stability import distance

RADIUS = 0.02  # of each number's standard deviation, as captum's default


def measured(explainer: Explainer, case: Case, attribution: Attribution, seed: int, generator: torch.Generator) -> float:
    """The largest change of the values, as a share of their norm, over inputs drawn nearby: each number moved by at most `RADIUS` of its scale.

    The scale is the standard deviation over the background, with the sample itself counted in, so that a background of one will do.
    The explainer's seed stays: the noise of its sampling is told elsewhere.
    """
    scale = torch.cat([case.background, case.inputs.unsqueeze(0)]).std(0)
    largest = 0.0
    for _ in range(NEARBY):
        moves = torch.rand(case.inputs.shape, generator=generator).to(case.inputs) * 2 - 1
        nearby = dataclasses.replace(case, inputs=case.inputs + RADIUS * scale * moves)
        largest = max(largest, distance(explainer.explain(nearby, seed).values, attribution.values))
    return largest
