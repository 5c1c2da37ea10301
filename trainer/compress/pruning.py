"""The arithmetic of `prune`. Rows are pruned where they are: no rank holds a layer whole, but for `scope=layer`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.compress.calibrate import block_by_block, squares
from trainer.compress.prune import Importance, Prune, Scope
from trainer.compress.sensitivity import Rises, Scan, Shares, Sizes, chosen_shares, told_of
from trainer.compress.subject import Change, Subject, local, relative, rows_of, whole

SPARSITY = 0.5  # where nothing is asked


@torch.no_grad()
def prune(subject: Subject, knobs: Prune) -> Change:
    """Prune the chosen layers in place."""
    layers = knobs.chosen(subject.layers())
    shares, rises = (_trained(layers), {}) if knobs.finetune.steps else _chosen(subject, layers, knobs)
    scanned = told_of(rises, knobs)
    figures = list(cut_out(subject, layers, shares, knobs))
    sums = torch.stack([each for _, each in figures])
    dist.all_reduce(sums)
    told = {}
    for (name, _), (zeros, lost, every) in zip(figures, sums.tolist(), strict=True):
        told[name] = {"zeros": zeros / layers[name].weight.numel(), "error": relative(lost, every), **scanned.get(name, {})}  # type: ignore[union-attr, operator]
    return Change(forms={name: {} for name in layers if knobs.finetune.steps}, told=told)


@torch.no_grad()
def masked(subject: Subject, knobs: Prune) -> Change:
    """The chosen layers as ones that are pruned while they are trained. A collective."""
    from trainer.compress.masked import MaskedConv2d, MaskedLinear

    layers = knobs.chosen(subject.layers())
    shares, rises = _chosen(subject, layers, knobs)
    kinds = {name: MaskedConv2d if isinstance(layer, nn.Conv2d) else MaskedLinear for name, layer in layers.items()}
    return Change(forms={name: kind.form(sparsity=shares[name], pattern=knobs.pattern) for name, kind in kinds.items()}, told=told_of(rises, knobs))


def cut_out(subject: Subject, layers: Mapping[str, nn.Module], shares: Shares, knobs: Prune) -> Iterator[tuple[str, Tensor]]:
    """Prune `layers` in place, each calibrated on what comes out of those before it, and give each one's figures (see `_prune_layer`). A collective."""
    if knobs.importance is Importance.magnitude:
        for name, layer in layers.items():
            yield name, _prune_layer(layer, None, shares[name], knobs)
        return
    for sums in block_by_block(subject, layers, knobs.calibration_samples, squares):
        for name, square in sums.items():
            yield name, _prune_layer(layers[name], square.sqrt(), shares[name], knobs)


class Weights(Sizes):
    """The size is the number of weights that are not zero."""

    noise: ClassVar[float] = 1e-4

    def __init__(self, counts: Mapping[str, tuple[int, int]]) -> None:
        self._counts = counts
        """By layer in how many parts, of how many weights each, the least important are looked for."""
        self.names = list(counts)
        self._whole = sum(parts * weights for parts, weights in counts.values())

    def gone(self, name: str, share: float) -> int:
        parts, weights = self._counts[name]
        return parts * round(share * weights)

    def left(self, shares: Shares) -> float:
        return 1 - sum(self.gone(name, share) for name, share in shares.items()) / self._whole

    def saved(self, shares: Shares, name: str, share: float) -> float:
        return (self.gone(name, share) - self.gone(name, shares[name])) / self._whole


class WeightScan(Scan):
    """Of one layer's pruning alone the calibration is that of the model as it is; of all of them it is made anew."""

    knobs: Prune

    def __init__(self, subject: Subject, knobs: Prune, layers: dict[str, nn.Module]) -> None:
        self._norms: dict[str, Tensor] = {}
        if knobs.importance is Importance.wanda:
            for sums in block_by_block(subject, layers, knobs.calibration_samples, squares):
                self._norms |= {name: square.sqrt() for name, square in sums.items()}
            layers = {name: layer for name, layer in layers.items() if name in self._norms}  # not what no sample comes to
        self._layers = layers
        super().__init__(subject, knobs, Weights({name: _parts(layer.weight, knobs) for name, layer in layers.items()}))  # type: ignore[arg-type]

    def touched(self, shares: Shares) -> list[Tensor]:
        return [local(self._layers[name].weight) for name, share in shares.items() if share]  # type: ignore[arg-type]

    def take(self, shares: Shares, final: bool) -> None:
        layers = {name: self._layers[name] for name, share in shares.items() if share}
        if final:
            for _ in cut_out(self.subject, layers, shares, self.knobs):
                pass
        else:
            for name, layer in layers.items():
                _prune_layer(layer, self._norms.get(name), shares[name], self.knobs)


def _chosen(subject: Subject, layers: dict[str, nn.Module], knobs: Prune) -> tuple[Shares, Rises]:
    """The share of each layer's weights that become zero. A collective."""
    if knobs.scans():
        return chosen_shares(WeightScan(subject, knobs, layers))
    group = knobs.group()
    share = 1 - group[0] / group[1] if group else SPARSITY if knobs.sparsity is None else knobs.sparsity
    return dict.fromkeys(layers, share), {}


def _parts(weight: Tensor, knobs: Prune) -> tuple[int, int]:
    rows = 1 if knobs.scope is Scope.layer else len(weight)
    return rows, weight.numel() // rows


def _trained(layers: Mapping[str, nn.Module]) -> Shares:
    """The shares that `layers` were trained with."""
    return {name: float(layer.sparsity) for name, layer in layers.items()}  # type: ignore[arg-type]


def _prune_layer(layer: nn.Module, norms: Tensor | None, share: float, knobs: Prune) -> Tensor:
    """(3,) in fp64 of this rank's rows: zeros that there are now, the sum of squares of what has gone, that of what was there."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if knobs.scope is Scope.layer:
        flat = whole(weight).abs().flatten()
        keep = rows_of(least(flat.unsqueeze(0), round(share * flat.numel())).logical_not().view(weight.shape), weight)
    else:
        rows = local(weight).flatten(1)
        keep = kept(rows.abs() if norms is None else rows.abs().to(torch.float64) * norms, share, knobs.group()).view(local(weight).shape)
    before = local(weight).to(torch.float64).square()
    local(weight).mul_(keep)
    return torch.stack([(local(weight) == 0).sum(), (before * ~keep).sum(), before.sum()])


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
