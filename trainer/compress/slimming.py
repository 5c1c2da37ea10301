"""The arithmetic of `prune_structured`. No rank holds more than one layer whole."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.compress.groups import IN, OUT, Group, plan
from trainer.compress.model import Compressed
from trainer.compress.prune import Importance
from trainer.compress.removal import importance, inputs_of, remove, removed
from trainer.compress.sensitivity import chosen_ratios
from trainer.compress.slim import Slim
from trainer.compress.structured import PruneStructured
from trainer.compress.subject import Change, Subject, cut, whole
from trainer.errors import ConfigError
from trainer.models.base import Model


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
    orders = {group.name: importance(group, layers, inputs).argsort(stable=True) for group in found.groups}
    ratios, told = chosen_ratios(subject, found, orders, inputs, knobs)
    gone = {group.name: orders[group.name][: removed(group, ratios[group.name], knobs.multiple)] for group in found.groups}
    for group in found.groups:
        remove(group, gone[group.name], layers, inputs)
    values, widths = dict(subject.values()), {}
    for name, kept in _kept(found.groups, gone, found.shapes).items():
        widths[name] = [len(rows) for rows in kept[: 2 if len(found.shapes[name]) > 1 else 1]]
        for key, value in [(key, value) for key, value in values.items() if key.rpartition(".")[0] == name and value.ndim]:
            full = whole(value)[kept[OUT].to(value.device)]
            values[key] = cut(full if full.ndim == 1 else full[:, kept[IN].to(value.device)].contiguous(), value)
    return Change(model=Slim(base=base, widths=widths), values=values, told=told)


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
