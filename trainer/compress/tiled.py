"""What `winograd` does to a model, and its layer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.compress.exact import to_levels
from trainer.compress.form import CompressedLayer
from trainer.compress.subject import Change, Subject, error
from trainer.compress.tiles import convolve, convolve_int8, multiplications, weights_of
from trainer.compress.winograd import Winograd


class WinogradConv2d(CompressedLayer, nn.Conv2d):
    """A 3x3 convolution by F(tile x tile, 3x3), with the plain layer's parameters. Gradients come by way of the transforms."""

    tile: int
    _kept: tuple[Tensor, int, Tensor] | None = None
    """The weight, its version, and its transform."""

    @classmethod
    def replacing(cls, original: nn.Module, *, tile: int) -> Self:
        assert isinstance(original, nn.Conv2d)
        layer = cls(original.in_channels, original.out_channels, original.kernel_size, padding=original.padding, bias=original.bias is not None)  # type: ignore[arg-type]
        layer.tile = tile
        return layer

    @torch.no_grad()
    def for_inference(self) -> None:
        """Keep the transformed weights: 16/9 or 4 times the memory of the weights, besides them."""
        self._kept = (self.weight, self.weight._version, weights_of(self.weight, self.tile))

    def forward(self, x: Tensor) -> Tensor:
        y = convolve(x, self._weights(), self.padding, self.tile)  # type: ignore[arg-type]
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)

    def _weights(self) -> Tensor:
        if self._kept is not None and not torch.is_grad_enabled() and self._kept[0] is self.weight and self._kept[1] == self.weight._version:
            return self._kept[2]
        return weights_of(self.weight, self.tile)


@torch.no_grad()
def tile(subject: Subject, knobs: Winograd) -> Change:
    """The eligible layers by minimal filtering, and what one sample of the training data shows of each. A collective."""
    layers = knobs.chosen(subject.layers())
    told: dict[str, dict[str, float]] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: nn.Conv2d, args: tuple[Any, ...]) -> None:
            told[name] = figures(args[0], layer.weight, layer.padding, knobs.tile)  # type: ignore[arg-type]

        return hook

    subject.engine.model.eval()
    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(watch(name)).remove)
        subject.metrics(subject.samples.batch(range(1)))
    return Change(forms={name: WinogradConv2d.form(tile=knobs.tile) for name in layers}, told=told)


def figures(x: Tensor, weight: Tensor, padding: tuple[int, int], tile: int) -> dict[str, float]:
    """Multiplications of a layer for the input `x`, and errors of its outputs relative to fp64: as it is here, and if it were in int8."""
    wide, wide_weight = x.to(torch.float64), weight.to(torch.float64)
    right = F.conv2d(wide, wide_weight, padding=padding)
    direct, fewer = (len(x) * weight.shape[0] * weight.shape[1] * count for count in multiplications(tile, (right.shape[2], right.shape[3])))
    transformed = weights_of(wide_weight, tile)
    (levels, scale), (weight_levels, weight_scale) = to_levels(x, (0, 1, 2, 3)), to_levels(weight, (0, 1, 2, 3))
    plain = F.conv2d(levels.to(torch.float64), weight_levels.to(torch.float64), padding=padding) * scale * weight_scale
    return {
        "multiplications": direct,
        "with winograd": fewer,
        "times fewer": direct / fewer,
        "error": error(right, convolve(x, weights_of(weight, tile), padding, tile).to(torch.float64)),
        "error of conv2d": error(right, F.conv2d(x, weight, padding=padding).to(torch.float64)),
        "int8: conv2d": error(right, plain),
        "int8: one scale": error(right, convolve_int8(wide, transformed, padding, tile, per_position=False)),
        "int8: scale per position": error(right, convolve_int8(wide, transformed, padding, tile, per_position=True)),
    }
