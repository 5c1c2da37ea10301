"""How sure a metric on a finite split is, and the difference of two models' on the same split."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.loop import Evaluation

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over a split and its percentile interval."""

    value: float
    low: float
    high: float


def estimates(evaluations: list[Evaluation], seed: int = 0) -> list[dict[str, Estimate]]:
    """For each evaluation of one split, each metric's mean with its interval over resampled batches (Efron 1979), the same for all.

    With several, the last of what is returned is the difference of the last and the first: batches are resampled together, as pairs.
    """
    first = evaluations[0]
    generator = torch.Generator().manual_seed(seed)
    batches = len(first.counts)
    weights = torch.zeros(RESAMPLES, batches, dtype=torch.float64)
    drawn = torch.randint(batches, (RESAMPLES, batches), generator=generator)
    weights.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    resampled = [one.resampled(weights) for one in evaluations]
    means = [one.means() for one in evaluations]
    if len(evaluations) > 1:
        resampled.append({name: resampled[-1][name] - resampled[0][name] for name in resampled[0]})
        means.append({name: means[-1][name] - means[0][name] for name in means[0]})
    return [{name: _estimate(mean[name], values) for name, values in each.items()} for mean, each in zip(means, resampled, strict=True)]


def _estimate(mean: float, resampled: torch.Tensor) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(resampled, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Estimate(mean, low, high)
