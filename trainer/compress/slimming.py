"""The arithmetic of `prune_structured`. No rank holds more than one layer whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from trainer.compress.groups import IN, OUT, Group, Plan, plan
from trainer.compress.model import Compressed
from trainer.compress.norms import Moments, correct, moments, running
from trainer.compress.prune import Importance
from trainer.compress.removal import Inputs, importance, inputs_of, remove, removed
from trainer.compress.sensitivity import Scan, Shares, Sizes, chosen_shares, told_of
from trainer.compress.slim import Slim
from trainer.compress.structured import PruneStructured
from trainer.compress.subject import Change, Subject, cut, local, whole
from trainer.errors import ConfigError
from trainer.models.base import Model

RATIO = 0.2  # where nothing is asked


@torch.no_grad()
def slim(subject: Subject, knobs: PruneStructured) -> Change:
    """The model with fewer channels."""
    base = _plain(subject.model)
    layers = subject.layers()
    chosen = knobs.chosen(layers)
    found = plan(base, subject.samples, chosen.__contains__)
    if not found.groups:
        raise ConfigError(f"compress.prune_structured: none of the {len(chosen)} layers that are chosen has channels that can go alone")
    inputs = inputs_of(subject, found.groups, layers, knobs) if knobs.importance is Importance.wanda else {}
    before = moments(subject, knobs.calibration_samples) if running(subject.engine.module) else []
    orders = {group.name: importance(group, layers, inputs).argsort(stable=True) for group in found.groups}
    ratios, rises = dict.fromkeys(orders, RATIO if knobs.ratio is None else knobs.ratio), {}
    if knobs.scans():
        ratios, rises = chosen_shares(ChannelScan(subject, knobs, found, orders, inputs, before))
    gone = {group.name: orders[group.name][: removed(group, ratios[group.name], knobs.multiple)] for group in found.groups}
    for group in found.groups:
        remove(group, gone[group.name], layers, inputs)
    if before:
        correct(subject, before, knobs.calibration_samples)
    values, widths = dict(subject.values()), {}
    for name, kept in _kept(found.groups, gone, found.shapes).items():
        widths[name] = [len(rows) for rows in kept[: 2 if len(found.shapes[name]) > 1 else 1]]
        for key, value in [(key, value) for key, value in values.items() if key.rpartition(".")[0] == name and value.ndim]:
            full = whole(value)[kept[OUT].to(value.device)]
            values[key] = cut(full if full.ndim == 1 else full[:, kept[IN].to(value.device)].contiguous(), value)
    sizes = {group.name: {"before": float(group.size), "after": float(group.size - len(gone[group.name]))} for group in found.groups}
    scanned = told_of(rises, knobs)
    return Change(model=Slim(base=base, widths=widths), values=values, told={name: {**each, **scanned.get(name, {})} for name, each in sizes.items()})


class Channels(Sizes):
    """The size is the multiply-accumulates of a pass over one sample."""

    noise: ClassVar[float] = 1e-3

    def __init__(self, found: Plan, multiple: int) -> None:
        self._plan, self._multiple = found, multiple
        self._groups = {group.name: group for group in found.groups}
        self.names = list(self._groups)
        self._whole = self.macs({})

    def gone(self, name: str, share: float) -> int:
        return removed(self._groups[name], share, self._multiple)

    def left(self, shares: Mapping[str, float]) -> float:
        return self.macs(shares) / self._whole

    def macs(self, shares: Mapping[str, float]) -> float:
        """Those that are left when these shares of the groups go."""
        shapes = {name: list(shape) for name, shape in self._plan.shapes.items()}
        for name, share in shares.items():
            gone = self.gone(name, share) / self._groups[name].size
            for member in self._groups[name].members:
                shapes[member.layer][member.side] -= round(len(member.rows) * gone)
        return sum(math.prod(shapes[name]) * times for name, times in self._plan.positions.items())


class ChannelScan(Scan):
    """What is not read any more is as good as gone, so the model keeps its shape."""

    sizes: Channels

    def __init__(
        self, subject: Subject, knobs: PruneStructured, plan: Plan, orders: Mapping[str, Tensor], inputs: Mapping[str, Inputs], before: list[Moments]
    ) -> None:
        super().__init__(subject, knobs, Channels(plan, knobs.multiple))
        self._groups, self._orders, self._inputs, self._before = plan.groups, orders, inputs, before
        self._calibration_samples, self._layers = knobs.calibration_samples, subject.layers()

    def touched(self, shares: Shares) -> list[Tensor]:
        changing = {member.layer for group in self._groups if shares[group.name] for member in group.readers()}
        values = [local(value) for name in changing for value in self._layers[name].parameters(recurse=False)]
        return values + [buffer for norm in running(self.subject.engine.module).values() for buffer in norm.buffers(recurse=False)]

    def take(self, shares: Shares, final: bool) -> None:
        for group in self._groups:
            if units := self.sizes.gone(group.name, shares[group.name]):
                remove(group, self._orders[group.name][:units], self._layers, self._inputs)
        if final and self._before:
            correct(self.subject, self._before, self._calibration_samples)


def trained(subject: Subject) -> Change:
    """The model as `slim` has left it and a training has changed it."""
    return Change(model=_plain(subject.model), values=subject.values())


def _kept(groups: tuple[Group, ...], gone: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[Tensor]]:
    """For each layer that loses something the rows and columns that stay."""
    stays: dict[str, list[Tensor]] = {}
    for group in groups:
        if not len(gone[group.name]):
            continue
        for member in group.members:
            shape = shapes[member.layer]
            masks = stays.setdefault(member.layer, [torch.ones(side, dtype=torch.bool) for side in (shape[0], shape[1] if len(shape) > 1 else 1)])
            masks[member.side][member.rows[torch.isin(member.units, gone[group.name])]] = False
    return {name: [mask.nonzero().flatten() for mask in masks] for name, masks in stays.items()}


def _plain(model: Model) -> Model:
    if not isinstance(model, Compressed):
        return model
    if model.forms:
        raise ConfigError(f"compress.prune_structured: {next(iter(model.forms))} has another form by now; put prune_structured before what gave it that form")
    return model.base
