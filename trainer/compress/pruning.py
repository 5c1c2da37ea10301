"""The arithmetic of `prune`. Rows are pruned where they are: no rank holds a layer whole, but for `scope=layer`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.compress.calibrate import block_by_block, squares
from trainer.compress.prune import Importance, Prune, Scope
from trainer.compress.subject import Change, Subject, local, rows_of, whole


@torch.no_grad()
def prune(subject: Subject, knobs: Prune) -> Change:
    """Prune the chosen layers in place."""
    layers = knobs.chosen(subject.layers())
    if knobs.importance is Importance.magnitude:
        for layer in layers.values():
            _prune_layer(layer, None, knobs)
    else:
        for sums in block_by_block(subject, layers, knobs.calibration_samples, squares):
            for name, square in sums.items():
                _prune_layer(layers[name], square.sqrt(), knobs)
    return Change(forms={name: {} for name in layers if knobs.finetune.steps})


def masked(subject: Subject, knobs: Prune) -> Change:
    """The chosen layers as ones that are pruned while they are trained."""
    from trainer.compress.masked import MaskedConv2d, MaskedLinear

    form = {"sparsity": knobs.sparsity, "pattern": knobs.pattern}
    layers = knobs.chosen(subject.layers())
    return Change(forms={name: (MaskedConv2d if isinstance(layer, nn.Conv2d) else MaskedLinear).form(**form) for name, layer in layers.items()})


def _prune_layer(layer: nn.Module, norms: Tensor | None, knobs: Prune) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if knobs.scope is Scope.layer and knobs.pattern is None:
        flat = whole(weight).abs().flatten()
        keep = rows_of(least(flat.unsqueeze(0), round(knobs.sparsity * flat.numel())).logical_not().view(weight.shape), weight)
    else:
        rows = local(weight).flatten(1)
        keep = kept(rows.abs() if norms is None else rows.abs().to(torch.float64) * norms, knobs.sparsity, knobs.group()).view(local(weight).shape)
    local(weight).mul_(keep)


def kept(importance: Tensor, sparsity: float, group: tuple[int, int] | None) -> Tensor:
    """(rows, inputs) of what stays: of each row, or of each group in it, the most important. Ties go to the first."""
    rows, inputs = importance.shape
    if group is None:
        return ~least(importance, round(sparsity * inputs))
    keep, of = group
    padded = torch.nn.functional.pad(importance, (0, -inputs % of), value=-1.0)  # what is not there is dropped first
    return ~least(padded.view(-1, of), of - keep).view(rows, -1)[:, :inputs]


def least(importance: Tensor, count: int) -> Tensor:
    """(rows, inputs): True at the `count` least important of each row; of equal ones the last."""
    order = importance.flip(1).argsort(dim=1, stable=True)[:, :count]
    return torch.zeros_like(importance, dtype=torch.bool).scatter_(1, order, True).flip(1)
