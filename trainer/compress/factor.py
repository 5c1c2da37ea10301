"""The arithmetic of `low_rank`: one layer whole at a time, in fp64."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from trainer.compress.calibrate import block_by_block, gram
from trainer.compress.form import CompressedLayer
from trainer.compress.low_rank import LowRank
from trainer.compress.subject import Change, Subject, cut, error, local, whole

DAMPING = 1e-6  # of the mean of the Gram matrix's diagonal: an input that is always zero has no Cholesky factor
HALVINGS = 100  # of a price, which may be a billionth and less
LEAST = 0.5  # of the rank that a layer would have if all were alike


class LowRankLinear(CompressedLayer):
    """y = up(down(x)): (inputs, rank) and (rank, outputs)."""

    def __init__(self, inputs: int, outputs: int, rank: int, bias: bool) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=bias)

    @classmethod
    def replacing(cls, original: nn.Module, *, rank: int) -> Self:
        assert isinstance(original, nn.Linear)
        return cls(original.in_features, original.out_features, rank, original.bias is not None)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


class LowRankConv2d(CompressedLayer):
    """A convolution to `rank` channels, then one of 1x1 (Denton et al. 2014, arXiv:1404.0736, section 3.2, with all inputs in one group)."""

    def __init__(self, original: nn.Conv2d, rank: int) -> None:
        super().__init__()
        shape: Any = {"stride": original.stride, "padding": original.padding, "dilation": original.dilation, "padding_mode": original.padding_mode}
        self.down = nn.Conv2d(original.in_channels, rank, original.kernel_size, bias=False, **shape)  # type: ignore[arg-type]
        self.up = nn.Conv2d(rank, original.out_channels, 1, bias=original.bias is not None)

    @classmethod
    def replacing(cls, original: nn.Module, *, rank: int) -> Self:
        assert isinstance(original, nn.Conv2d)
        return cls(original, rank)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


@torch.no_grad()
def factor(subject: Subject, knobs: LowRank) -> Change:
    """The chosen layers as products of two, those whose product would not be smaller as they are."""
    layers = knobs.chosen(subject.layers())
    ranks = _allotted(subject, layers, knobs) if knobs.ratio is not None else {}
    change = Change()
    for name, statistic in _statistics(subject, layers, knobs):
        layer = layers[name]
        weight = layer.weight
        assert isinstance(weight, Tensor)
        matrix, root = _whitened(weight, statistic)
        u, s, vt = torch.linalg.svd(matrix if root is None else matrix @ root, full_matrices=False)
        rank = ranks[name] if ranks else _rank(s, knobs)
        if rank * sum(matrix.shape) >= matrix.numel():
            change.told[name] = {"rank": min(matrix.shape), "error": 0.0}
            continue
        half = s[:rank].sqrt()
        up, down = u[:, :rank] * half, half.unsqueeze(1) * vt[:rank]
        if root is not None:  # (W R) R^-1
            down = torch.linalg.solve_triangular(root, down, upper=False, left=False)
        kind = LowRankConv2d if isinstance(layer, nn.Conv2d) else LowRankLinear
        change.forms[name] = kind.form(rank=rank)
        change.told[name] = {"rank": rank, "error": error(matrix, up @ down)}
        up, down = up.to(weight.dtype), down.to(weight.dtype)
        change.values[f"{name}.down.weight"] = cut(down.view(rank, *weight.shape[1:]).contiguous(), weight)
        change.values[f"{name}.up.weight"] = cut(up.view(*up.shape, *(1,) * (weight.ndim - 2)).contiguous(), weight)
        bias = layer.bias
        if isinstance(bias, Tensor):
            change.values[f"{name}.up.bias"] = bias.detach()
        local(weight).copy_(local(cut((up @ down).view(weight.shape), weight)))  # what follows is calibrated on what comes out of it now
    return change


def _statistics(subject: Subject, layers: dict[str, nn.Module], knobs: LowRank) -> Iterator[tuple[str, Tensor | None]]:
    if not knobs.whiten:
        yield from ((name, None) for name in layers)
        return
    for sums in block_by_block(subject, layers, knobs.calibration_samples, gram):
        yield from sums.items()


def _whitened(weight: Tensor, statistic: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """`weight` whole, (outputs, inputs) in fp64, and what it is multiplied with before its singular values are taken."""
    return whole(weight.detach()).flatten(1).to(torch.float64), None if statistic is None else _root(statistic)


def _allotted(subject: Subject, layers: dict[str, nn.Module], knobs: LowRank) -> dict[str, int]:
    """Ranks by the singular values of the layers as they are: one layer is whole at a time, and of it only these are kept. A collective."""
    assert knobs.ratio is not None
    squares, shapes = {}, {}
    for name, statistic in _statistics(subject, layers, knobs):
        matrix, root = _whitened(layers[name].weight, statistic)  # type: ignore[arg-type]
        squares[name], shapes[name] = torch.linalg.svdvals(matrix if root is None else matrix @ root).square(), tuple(matrix.shape)
    return allot(squares, shapes, 1 - knobs.ratio)


def allot(squares: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, int]], left: float) -> dict[str, int]:
    """The rank of each layer, of `shapes` (outputs, inputs), with which together they take the share `left` of their parameters, or a little less.

    What is lost in a layer is the share of its `squares` of singular values that goes. It is weighed by outputs + inputs, which is what
    a rank takes, so that a share is worth as much everywhere; the sum is the least that there is. But no layer goes below half
    of the rank that it would have if all were alike: where a few directions have nearly all of the energy, as some inputs of language models do,
    the shares of the others say too little. A rank whose product would not be smaller means the layer as it is.

    For every price of a rank each layer has one that is best for it; the price is the lowest at which they all take little enough, found
    by halving (Everett 1963, https://doi.org/10.1287/opre.11.3.399). What is left over then, for no price asks for the ranks just below
    the layer as it is, goes rank by rank to where most is lost.
    """
    shares = {name: (each / each.sum().clamp(min=torch.finfo(each.dtype).tiny)).tolist() for name, each in squares.items()}
    lost = {name: list(itertools.accumulate(reversed(each)))[::-1] for name, each in shares.items()}
    even = {name: outputs * inputs / (outputs + inputs) for name, (outputs, inputs) in shapes.items()}  # the rank at which nothing is saved
    most = left * sum(map(math.prod, shapes.values()))

    def best(price: float) -> dict[str, int]:
        found = {}
        for name, each in shares.items():
            rank = max(1, int(LEAST * left * even[name]), bisect_left(each, -price, key=lambda share: -share))
            stays = rank >= even[name] or price * even[name] <= lost[name][rank] + price * rank
            found[name] = len(each) if stays else rank
        return found

    def taken(ranks: Mapping[str, int]) -> int:
        return sum(min(ranks[name] * sum(shape), math.prod(shape)) for name, shape in shapes.items())

    low, high = 0.0, 1.0  # at a price of 1 no share is worth it
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if taken(best(middle)) <= most else (middle, high)
    ranks = best(high)
    room = most - taken(ranks)
    while fit := [name for name, rank in ranks.items() if sum(shapes[name]) <= room and rank + 1 < even[name]]:
        name = max(fit, key=lambda name: shares[name][ranks[name]])
        ranks[name] += 1
        room -= sum(shapes[name])
    return ranks


def _root(gram: Tensor) -> Tensor:
    """R, lower triangular, with R R^T the Gram matrix of the inputs: the error of W R is that of the layer's outputs."""
    damping = DAMPING * gram.diagonal().mean()
    return torch.linalg.cholesky(gram + damping * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))


def _rank(s: Tensor, knobs: LowRank) -> int:
    assert knobs.energy is not None
    share = s.square().cumsum(0) / s.square().sum()
    return int((share < knobs.energy).sum()) + 1
