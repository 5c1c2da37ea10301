"""Which layers bear to lose channels: the loss is measured with each one pruned alone, and what costs least for what it saves goes first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.compress.groups import Group, Plan
from trainer.compress.norms import Moments, correct, running
from trainer.compress.removal import Inputs, remove, removed
from trainer.compress.structured import PruneStructured
from trainer.compress.subject import Subject, local
from trainer.errors import ConfigError
from trainer.loader import to_device

Ratios = dict[str, float]
Told = dict[str, dict[str, float]]
RATIO = 0.2  # where nothing is asked
NOISE = 1e-3  # a smaller rise of the loss, on a few samples, tells nothing: then what saves most goes first
STEP = 0.0625  # of a layer's channels, by which the search goes on


def chosen_ratios(
    subject: Subject, plan: Plan, orders: Mapping[str, Tensor], inputs: Mapping[str, Inputs], before: list[Moments], knobs: PruneStructured
) -> tuple[Ratios, Told]:
    """The share of each group that goes, and figures of each group for the report. A collective."""
    nothing = {group.name: 0.0 for group in plan.groups}
    scanned: dict[str, list[float]] = {}
    if knobs.macs is None and knobs.loss_rise is None:
        ratios = dict.fromkeys(nothing, RATIO if knobs.ratio is None else knobs.ratio)
    else:
        scan = Scan(subject, plan, orders, inputs, before, knobs)
        dense = scan.loss(nothing)
        scanned = {group.name: [scan.loss({**nothing, group.name: ratio}) / dense - 1 for ratio in knobs.scan_ratios] for group in plan.groups}
        path = list(cheapest_first(plan, scanned, knobs))
        if knobs.macs is not None:
            ratios = next((ratios for ratios in path if macs(plan, ratios, knobs) <= knobs.macs * macs(plan, nothing, knobs)), None)
            if ratios is None:
                least = macs(plan, path[-1], knobs) / macs(plan, nothing, knobs)
                raise ConfigError(
                    f"compress.prune_structured.macs={knobs.macs}: {least:.3g} are left with all that scan_ratios={knobs.scan_ratios} lets go; "
                    "ask for less, give higher scan_ratios, or choose more layers"
                )
        else:
            most = dense * (1 + (knobs.loss_rise or 0))
            ratios = farthest(path, lambda ratios: scan.loss(ratios, corrected=True) <= most)
    told: Told = {}
    for group in plan.groups:
        gone = removed(group, ratios[group.name], knobs.multiple)
        told[group.name] = {"before": float(group.size), "after": float(group.size - gone)}
        told[group.name] |= {f"loss at {ratio:g}": rise for ratio, rise in zip(knobs.scan_ratios, scanned.get(group.name, []), strict=False)}
    return ratios, told


class Scan:
    """Measures the loss of the model with some of it pruned. What it changes it puts back."""

    def __init__(
        self, subject: Subject, plan: Plan, orders: Mapping[str, Tensor], inputs: Mapping[str, Inputs], before: list[Moments], knobs: PruneStructured
    ) -> None:
        self._subject, self._plan, self._orders, self._inputs, self._before, self._knobs = subject, plan, orders, inputs, before, knobs
        self._layers = subject.layers()

    def loss(self, ratios: Ratios, corrected: bool = False) -> float:
        """The mean loss on the scanned samples, the same on all ranks; `corrected`: with normalisations that know of it. A collective."""
        with self._kept(ratios):
            for group in self._plan.groups:
                units = self._orders[group.name][: removed(group, ratios[group.name], self._knobs.multiple)]
                if len(units):
                    remove(group, units, self._layers, self._inputs)
            if corrected and self._before:
                correct(self._subject, self._before, self._knobs.calibration_samples)
            return mean_loss(self._subject, self._knobs.scan_samples)

    @contextmanager
    def _kept(self, ratios: Ratios) -> Iterator[None]:
        changing = {member.layer for group in self._plan.groups if ratios[group.name] for member in group.readers()}
        values = [local(value) for name in changing for value in self._layers[name].parameters(recurse=False)]
        values += [buffer for norm in running(self._subject.engine.module).values() for buffer in norm.buffers(recurse=False)]
        before = [value.clone() for value in values]
        try:
            yield
        finally:
            for value, kept in zip(values, before, strict=True):
                value.copy_(kept)


def mean_loss(subject: Subject, samples: int) -> float:
    """Of the first training samples; each batch is computed by one rank. A collective."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    count = min(samples, len(subject.samples))
    starts = list(range(0, count, subject.batch_size))
    total = torch.zeros(2, dtype=torch.float64)
    subject.engine.model.eval()
    for turn in range(0, len(starts), ranks):
        mine = turn + rank < len(starts)
        start = starts[turn + rank] if mine else 0
        batch = subject.samples.batch(range(start, min(start + subject.batch_size, count)))
        loss = subject.engine.metrics(subject.model, to_device(batch, subject.engine.device))["loss"]
        total += mine * torch.tensor([float(loss), float(subject.model.count(batch))], dtype=torch.float64)
    total = total.to(subject.engine.device)
    if ranks > 1:
        dist.all_reduce(total)
    return float(total[0] / total[1])


def macs(plan: Plan, ratios: Ratios, knobs: PruneStructured) -> float:
    """Multiply-accumulates of a pass over one sample when `ratios` of each group are gone."""
    shapes = {name: list(shape) for name, shape in plan.shapes.items()}
    for group in plan.groups:
        share = removed(group, ratios[group.name], knobs.multiple) / group.size
        for member in group.members:
            shapes[member.layer][member.side] -= round(len(member.rows) * share)
    return sum(math.prod(shapes[name]) * times for name, times in plan.positions.items())


def cheapest_first(plan: Plan, scanned: Mapping[str, Sequence[float]], knobs: PruneStructured) -> Iterator[Ratios]:
    """From nothing to all that may go, a step of one group at a time: the one that saves most for the loss that it is to cost."""
    ratios = {group.name: 0.0 for group in plan.groups}
    yield dict(ratios)
    while True:
        now = macs(plan, ratios, knobs)
        best: tuple[float, Group, float] | None = None
        for group in plan.groups:
            following = _next(group, ratios[group.name], knobs)
            if following is None:
                continue
            saved = now - macs(plan, {**ratios, group.name: following}, knobs)
            cost = _between(scanned[group.name], knobs.scan_ratios, following) - _between(scanned[group.name], knobs.scan_ratios, ratios[group.name])
            price = max(cost, NOISE) / saved
            if best is None or price < best[0]:
                best = (price, group, following)
        if best is None:
            return
        ratios[best[1].name] = best[2]
        yield dict(ratios)


def _next(group: Group, ratio: float, knobs: PruneStructured) -> float | None:
    """The next share at which fewer units are left; None: no more may go."""
    gone = removed(group, ratio, knobs.multiple)
    while (ratio := ratio + STEP) <= knobs.scan_ratios[-1] + 1e-9:
        if removed(group, ratio, knobs.multiple) > gone:
            return ratio
    return None


def _between(rises: Sequence[float], at: Sequence[float], ratio: float) -> float:
    """The loss at `ratio`, on straight lines between what was measured."""
    points = [(0.0, 0.0), *zip(at, rises, strict=True)]
    for (left, low), (right, high) in itertools.pairwise(points):
        if ratio <= right:
            return low + (high - low) * (ratio - left) / (right - left)
    return points[-1][1]


def farthest(path: Sequence[Ratios], good: Callable[[Ratios], bool]) -> Ratios:
    """The last of `path` that is good, which the first is, if those before it all are: found by halving."""
    low, high = 0, len(path)
    while high - low > 1:
        middle = (low + high) // 2
        if good(path[middle]):
            low = middle
        else:
            high = middle
    return path[low]
