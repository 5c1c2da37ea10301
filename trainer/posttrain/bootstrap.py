"""How sure a metric on a finite split is, and the difference of two models' on the same split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from trainer.loop import Evaluation

RESAMPLES = 2000
CONFIDENCE = 0.95
CELLS = 1 << 22  # of weights, at once


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
    pieces = [[one.resampled(weights) for one in evaluations] for weights in resamples(len(evaluations[0].counts), seed)]
    resampled = [{name: torch.cat([piece[name] for piece in of_one]) for name in of_one[0]} for of_one in zip(*pieces, strict=True)]
    means = [one.means() for one in evaluations]
    if len(evaluations) > 1:
        resampled.append({name: resampled[-1][name] - resampled[0][name] for name in resampled[0]})
        means.append({name: means[-1][name] - means[0][name] for name in means[0]})
    return [{name: _estimate(mean[name], values) for name, values in each.items()} for mean, each in zip(means, resampled, strict=True)]


def resamples(count: int, seed: int = 0) -> Iterator[torch.Tensor]:
    """How often each of `count` elements is in each of `RESAMPLES` samples of as many, drawn from them (Efron 1979).

    fp64 of (resamples, count), in pieces of some megabytes, which are the same whatever is done with them.
    """
    generator = torch.Generator().manual_seed(seed)
    for piece in torch.arange(RESAMPLES).split(max(1, CELLS // count)):
        drawn = torch.randint(count, (len(piece), count), generator=generator)
        yield torch.zeros(len(piece), count, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))


def _estimate(mean: float, resampled: torch.Tensor) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(resampled, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Estimate(mean, low, high)
