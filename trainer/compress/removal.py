"""What channels are worth, and how they are taken out of what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.compress.calibrate import block_by_block, channels
from trainer.compress.groups import IN, OUT, Group, Member
from trainer.compress.structured import PruneStructured
from trainer.compress.subject import Subject, local, rows_of


@dataclass(frozen=True)
class Inputs:
    """Of each input of a layer, over calibration data, (channels,) in fp64."""

    mean: Tensor
    variance: Tensor


def removed(group: Group, ratio: float, multiple: int) -> int:
    """How many units go, so that about 1 - `ratio` are left, in multiples of `multiple` where there are more."""
    left = round((1 - ratio) * group.size)
    if group.size > multiple and not group.heads:
        left = max(multiple, round(left / multiple) * multiple)
    return group.size - max(1, min(left, group.size))


def remove(group: Group, units: Tensor, layers: Mapping[str, nn.Module], inputs: Mapping[str, Inputs]) -> None:
    """Let nothing read `units` any more: what they are on average goes into the biases of what has read them."""
    for member in group.readers():
        layer, columns = layers[member.layer], member.rows[torch.isin(member.units, units.cpu())]
        weight = local(layer.weight)  # type: ignore[arg-type]
        columns = columns.to(weight.device)
        if member.layer in inputs and isinstance(layer.bias, Tensor):
            mean = inputs[member.layer].mean[columns]
            local(layer.bias).add_((weight[:, columns].flatten(2).sum(2) if weight.ndim > 2 else weight[:, columns]).to(torch.float64) @ mean)
        weight[:, columns] = 0


def importance(group: Group, layers: Mapping[str, nn.Module], inputs: Mapping[str, Inputs]) -> Tensor:
    """(units,) fp64 on the CPU, the same on all ranks. A collective."""
    total = torch.zeros(group.size, dtype=torch.float64)
    for member in group.members:
        layer = layers.get(member.layer)
        if layer is None or (inputs and member.side == OUT):
            continue  # a normalisation says little of what it gives to others
        total.index_add_(0, member.units, _squares(layer.weight, member) * _variation(member, layer, inputs))  # type: ignore[arg-type]
    return total


def _squares(weight: Tensor, member: Member) -> Tensor:
    """(rows of the member,): the sum of squares of each row or column of `weight`."""
    each = local(weight).to(torch.float64).square()
    if member.side == IN:
        sums = (each.flatten(2).sum(2) if each.ndim > 2 else each).sum(0)
        dist.all_reduce(sums)
        return sums.cpu()[member.rows]
    sums = torch.zeros(weight.shape[0], dtype=torch.float64, device=each.device)
    place = rows_of(torch.arange(weight.shape[0], device=each.device), weight)
    sums[place] = each.flatten(1).sum(1)
    if local(weight) is not weight:
        dist.all_reduce(sums)
    return sums.cpu()[member.rows]


def _variation(member: Member, layer: nn.Module, inputs: Mapping[str, Inputs]) -> Tensor:
    """What squared weights are multiplied with: how much of an input the bias cannot make up for."""
    if member.layer not in inputs:
        return torch.ones(len(member.rows), dtype=torch.float64)
    known = inputs[member.layer]
    each = known.variance if isinstance(layer.bias, Tensor) else known.variance + known.mean.square()
    return each.cpu()[member.rows]


def inputs_of(subject: Subject, groups: tuple[Group, ...], layers: Mapping[str, nn.Module], knobs: PruneStructured) -> dict[str, Inputs]:
    """Of each layer that reads one of `groups`. A collective."""
    readers = {member.layer: layers[member.layer] for group in groups for member in group.readers()}
    found = {}
    for sums in block_by_block(subject, readers, knobs.calibration_samples, _moments, view=channels):
        for name, (count, first, second) in sums.items():
            mean = first / count
            found[name] = Inputs(mean, (second / count - mean.square()).clamp(min=0))
    return found


def _moments(x: Tensor) -> Tensor:
    """(3, channels): how many, their sum, the sum of their squares."""
    wide = x.to(torch.float64)
    return torch.stack([torch.full_like(wide[0], len(wide)), wide.sum(0), wide.square().sum(0)])
