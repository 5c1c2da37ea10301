"""What each layer bears to lose: the loss is measured with some of each one gone alone, and what costs least for what it saves goes first."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.compress.scanned import Scanned
from trainer.compress.subject import Subject
from trainer.errors import ConfigError

Shares = dict[str, float]
"""By the name of a layer, or of a group of layers, how much of it goes."""
Rises = dict[str, list[float]]
"""By name, the rise of the loss, as a share of it, at each of `scan_ratios`."""
STEP = 0.0625  # of a layer, by which the search goes on


class Sizes(ABC):
    """What may go from a model, and what that saves."""

    noise: ClassVar[float]
    """A rise of the loss in one step that tells nothing, on a few samples, if it is smaller: then what saves most goes first."""
    names: Sequence[str]

    @abstractmethod
    def gone(self, name: str, share: float) -> int:
        """How many units go of `name` when `share` is asked."""

    @abstractmethod
    def left(self, shares: Shares) -> float:
        """What is left of the size when these go, as a share of it."""

    def saved(self, shares: Shares, name: str, share: float) -> float:
        """By how much `left` falls when instead of what `shares` says `share` of `name` goes."""
        return self.left(shares) - self.left({**shares, name: share})


class Scan(ABC):
    """Measures the loss of a model that some is gone from."""

    def __init__(self, subject: Subject, knobs: Scanned, sizes: Sizes) -> None:
        self.subject, self.knobs, self.sizes = subject, knobs, sizes

    @abstractmethod
    def touched(self, shares: Shares) -> list[Tensor]:
        """This rank's values that `take` may change."""

    @abstractmethod
    def take(self, shares: Shares, final: bool) -> None:
        """Let them go, in place; `final`: as it is done in the end, if that takes longer. A collective."""

    def loss(self, shares: Shares, *, final: bool = False) -> float:
        """The mean loss on the scanned samples without what `shares` says, the same on all ranks. The model is as before, after it. A collective."""
        with _put_back(self.touched(shares)):
            self.take(shares, final)
            return mean_loss(self.subject, self.knobs.scan_samples)


def chosen_shares(scan: Scan) -> tuple[Shares, Rises]:
    """How much goes of each for the size, or the rise of the loss, that the scan's knobs ask for, and what was measured of each. A collective.

    Raises:
        ConfigError: so much may not go.
    """
    knobs, sizes = scan.knobs, scan.sizes
    nothing = dict.fromkeys(sizes.names, 0.0)
    dense = scan.loss(nothing)
    rises = {name: [scan.loss({**nothing, name: share}) / dense - 1 for share in knobs.scan_ratios] for name in sizes.names}
    path = cheapest_first(sizes, rises, knobs.scan_ratios)
    if knobs.loss_rise is not None:
        most = dense * (1 + knobs.loss_rise)
        return farthest(list(path), lambda shares: scan.loss(shares, final=True) <= most), rises
    shares = nothing
    for shares in path:
        if sizes.left(shares) <= knobs.size_left() + 1e-9:
            return shares, rises
    key = f"compress.{knobs.method}.{knobs.target}"
    raise ConfigError(
        f"{key}={getattr(knobs, knobs.target)}: {sizes.left(shares):.3g} are left with all that scan_ratios={knobs.scan_ratios} lets go; "
        "ask for less, give higher scan_ratios, or choose more layers"
    )


def told_of(rises: Rises, knobs: Scanned) -> dict[str, dict[str, float]]:
    """For the report, by name."""
    return {name: {f"loss at {share:g}": rise for share, rise in zip(knobs.scan_ratios, each, strict=True)} for name, each in rises.items()}


def mean_loss(subject: Subject, samples: int) -> float:
    """Of the first training samples; each batch is computed by one rank. A collective."""
    total = torch.zeros(2, dtype=torch.float64)
    subject.engine.model.eval()
    for places, weight in subject.turns(samples):
        batch = subject.samples.batch(places)
        total += weight * torch.tensor([float(subject.metrics(batch)["loss"]), float(subject.model.count(batch))], dtype=torch.float64)
    total = total.to(subject.engine.device)
    dist.all_reduce(total)
    return float(total[0] / total[1])


def cheapest_first(sizes: Sizes, rises: Mapping[str, Sequence[float]], at: Sequence[float]) -> Iterator[Shares]:
    """From nothing to all that may go, a step of one layer at a time: the one that saves most for the loss that it is to cost.

    `rises` of the loss were measured `at` these shares.
    """
    shares = dict.fromkeys(sizes.names, 0.0)
    yield dict(shares)
    while True:
        best: tuple[float, str, float] | None = None
        for name, share in shares.items():
            following = _next(sizes, name, share, at[-1])
            if following is None:
                continue
            cost = _between(rises[name], at, following) - _between(rises[name], at, share)
            price = (max(cost, sizes.noise) if math.isfinite(cost) else math.inf) / sizes.saved(shares, name, following)
            if best is None or price < best[0]:
                best = (price, name, following)
        if best is None:
            return
        shares[best[1]] = best[2]
        yield dict(shares)


def _next(sizes: Sizes, name: str, share: float, most: float) -> float | None:
    """The next share with which more goes; None: no more may go."""
    gone = sizes.gone(name, share)
    while (share := share + STEP) <= most + 1e-9:
        if sizes.gone(name, share) > gone:
            return share
    return None


def _between(rises: Sequence[float], at: Sequence[float], share: float) -> float:
    """The loss at `share`, on straight lines between what was measured."""
    points = [(0.0, 0.0), *zip(at, rises, strict=True)]
    for (left, low), (right, high) in itertools.pairwise(points):
        if share <= right:
            return low + (high - low) * (share - left) / (right - left)
    return points[-1][1]


def farthest(path: Sequence[Shares], good: Callable[[Shares], bool]) -> Shares:
    """The last of `path` that is good, which the first is, if those before it all are: found by halving."""
    low, high = 0, len(path)
    while high - low > 1:
        middle = (low + high) // 2
        if good(path[middle]):
            low = middle
        else:
            high = middle
    return path[low]


@contextmanager
def _put_back(values: Sequence[Tensor]) -> Iterator[None]:
    before = [value.clone() for value in values]
    try:
        yield
    finally:
        for value, kept in zip(values, before, strict=True):
            value.copy_(kept)
