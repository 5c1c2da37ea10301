"""How alike two attributions of the same units are."""

from __future__ import annotations

import torch
from torch import Tensor

NOISE = 1e-6  # of the largest magnitude: values that are nearer than this differ by rounding alone, and have one rank
TOP = 5
MATTERS = 0.1  # of the largest magnitude: the order of values below it is noise, of right methods as well


def ranks(values: Tensor) -> Tensor:
    """(units,) to (units,) float64: places in rising order from 0, the mean place for those that are equal."""
    unit = NOISE * values.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    settled = (values.to(torch.float64) / unit).round()
    return torch.searchsorted(settled.sort().values, torch.stack([settled, settled + 0.5])).to(torch.float64).sum(0) / 2 - 0.5


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, from -1 to 1. Where all values of one are equal it is not defined: 1 if those of both are (they say the same), else 0."""
    a, b = (each - each.mean() for each in (ranks(one), ranks(other)))
    spread = float(a.norm() * b.norm())
    if spread == 0:
        return float(float(a.norm()) == float(b.norm()))
    return float(a @ b) / spread


def mattering(values: Tensor) -> Tensor:
    """`values`, with 0 for those that hardly matter beside the largest."""
    return torch.where(values.abs() < MATTERS * values.abs().max(), 0.0, values)


def top(values: Tensor) -> set[int]:
    """The units of the largest magnitude: five of them, or half where there are fewer than ten."""
    return set(values.abs().argsort(descending=True, stable=True)[: max(1, min(TOP, len(values) // 2))].tolist())


def overlap(one: Tensor, other: Tensor) -> float:
    """Jaccard index of the top units of both: those in common as a share of all."""
    a, b = top(one), top(other)
    return len(a & b) / len(a | b)


def same_signs(one: Tensor, other: Tensor) -> float:
    """Of the top units of `one`, the share to which `other` gives the same sign."""
    places = sorted(top(one))
    return float((one[places].sign() == other[places].sign()).to(torch.float64).mean())
