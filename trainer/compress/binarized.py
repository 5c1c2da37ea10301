"""The arithmetic of `binarize`, and its layers: as they are trained, and packed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.compress.binarize import Activations, Binarize, Kind
from trainer.compress.digits import pack, packed_width, unpack
from trainer.compress.exact import Straight, Window, one_scale, product, to_levels
from trainer.compress.form import CompressedLayer
from trainer.compress.subject import Change, Subject, cut, joined, local, relative, whole
from trainer.compress.trained import Effective, TrainedConv2d, TrainedLinear

UNPACKED = 2**19  # bytes of weights that are unpacked at a time: they stay in a core's cache until they are multiplied


class Binarized(Effective):
    """Computes with the weights and activations that there will be, and trains those that they are made from."""

    kind: Kind
    activations: Activations

    def set_knobs(self, kind: str, activations: str) -> Self:  # type: ignore[override]
        self.kind, self.activations = Kind[kind], Activations[activations]
        return self

    def effective(self) -> Tensor:
        """Of binary weights the gradient goes through the scale, and through the sign where |w| <= 1 (XNOR-Net, section 3.1);
        of ternary ones it goes straight through (BitNet, section 2)."""
        weight = self.weight
        if self.kind is Kind.binary:
            scale = weight.abs().mean(tuple(range(1, weight.ndim)), keepdim=True)
            return Straight.apply(weight, digits_of(self.kind, weight.detach(), scale.detach()), weight.detach().abs() <= 1) * scale  # type: ignore[operator]
        scale = weight.detach().abs().mean()
        return Straight.apply(weight, digits_of(self.kind, weight.detach(), scale) * scale, None)  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        if self.activations is Activations.int8:
            levels, scale = to_levels(x.detach(), one_scale(x, self.weight.ndim > 2))
            x = Straight.apply(x, (levels * scale).to(x.dtype), None)  # type: ignore[assignment]
        return super().forward(x)


class BinarizedLinear(Binarized, TrainedLinear):
    pass


class BinarizedConv2d(Binarized, TrainedConv2d):
    pass


class Packed(CompressedLayer):
    """Several weights in a byte of `weight`, (outputs, bytes), unpacked in each pass. What they stand for is multiplied by `scale`."""

    def __init__(self, outputs: int, inputs: int, bias: bool, kind: str, activations: str) -> None:
        super().__init__()
        self.kind, self.activations, self.inputs = Kind[kind], Activations[activations], inputs
        self.weight = nn.Parameter(torch.empty(outputs, packed_width(self.kind, inputs), dtype=torch.uint8), requires_grad=False)
        self.scale = nn.Parameter(torch.empty(outputs if self.kind is Kind.binary else 1), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Zero, until a checkpoint is loaded."""
        for parameter in self.parameters(recurse=False):
            parameter.zero_()

    def meant(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**values, "weight": unpack(self.kind, values["weight"], self.inputs)}

    def digits(self) -> Tensor:
        """(outputs, inputs) of int8."""
        return unpack(self.kind, self.weight, self.inputs)

    def times(self, x: Tensor) -> Tensor:
        """(tokens, outputs) in int32, exactly, for x (tokens, inputs) of int8; for floats in their dtype."""
        of = product if x.dtype == torch.int8 else _of_floats
        rows = max(1, UNPACKED // self.inputs)
        return torch.cat([of(x, unpack(self.kind, packed, self.inputs)) for packed in self.weight.split(rows)], 1)


class PackedLinear(Packed):
    @classmethod
    def replacing(cls, original: nn.Module, *, kind: str, activations: str) -> Self:
        assert isinstance(original, nn.Linear)
        return cls(original.out_features, original.in_features, original.bias is not None, kind, activations)

    def forward(self, x: Tensor) -> Tensor:
        if self.activations is Activations.float:
            y = self.times(x.flatten(0, -2)).view(*x.shape[:-1], -1) * self.scale.to(x.dtype)
        else:
            levels, scale = to_levels(x, one_scale(x, conv=False))
            sums = self.times(levels.to(torch.int8).flatten(0, -2)).view(*x.shape[:-1], -1)
            y = (sums * scale * self.scale).to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)


class PackedConv2d(Packed):
    """One scale of the activations for each image."""

    def __init__(self, original: nn.Conv2d, kind: str, activations: str) -> None:
        super().__init__(original.out_channels, original.weight[0].numel(), original.bias is not None, kind, activations)
        self.shape, self.window = original.weight.shape, Window.of(original)

    @classmethod
    def replacing(cls, original: nn.Module, *, kind: str, activations: str) -> Self:
        assert isinstance(original, nn.Conv2d)
        return cls(original, kind, activations)

    def forward(self, x: Tensor) -> Tensor:
        """x: (images, channels, height, width)."""
        scale, digits = self.scale.view(-1, 1, 1), self.digits().view(self.shape)
        if self.activations is Activations.float:
            y = self.window.convolution(self.window.padded(x), digits.to(x.dtype)) * scale.to(x.dtype)
        else:
            levels, of_image = to_levels(x, one_scale(x, conv=True))
            y = (self.window.sums(self.window.padded(levels).to(torch.int8), digits) * of_image * scale).to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype).view(-1, 1, 1)


def trained(subject: Subject, knobs: Binarize) -> Change:
    """The chosen layers as they are trained."""
    layers = knobs.chosen(subject.layers())
    return Change(forms={name: (BinarizedConv2d if isinstance(layer, nn.Conv2d) else BinarizedLinear).form(**_form(knobs)) for name, layer in layers.items()})


@torch.no_grad()
def binarize(subject: Subject, knobs: Binarize) -> Change:
    """The chosen layers, packed. Every figure is made from whole rows in the same order on any number of ranks. A collective."""
    change = Change()
    for name, layer in knobs.chosen(subject.layers()).items():
        weight = layer.weight
        assert isinstance(weight, Tensor)
        rows = local(weight.detach()).flatten(1)
        means = row_sums(rows.abs()) / rows.shape[1]
        if knobs.kind is Kind.binary:
            by_row = means.to(rows.dtype).unsqueeze(1)
            scale = joined(by_row.squeeze(1), weight)
        else:
            by_row = (row_sums(whole(joined(means, weight)).unsqueeze(0)) / len(weight)).to(rows.dtype)
            scale = cut(by_row, weight)
        digits = digits_of(knobs.kind, rows, by_row)
        wide = rows.to(torch.float64)
        lost, all_of_it, zeros = (
            float(whole(joined(row_sums(value), weight)).sum()) for value in ((wide - digits * by_row).square(), wide.square(), (digits == 0).to(wide))
        )
        change.forms[name] = (PackedConv2d if isinstance(layer, nn.Conv2d) else PackedLinear).form(**_form(knobs))
        change.told[name] = {"error": relative(lost, all_of_it), "zeros": zeros / weight.numel()}
        change.values[f"{name}.weight"] = joined(pack(knobs.kind, digits), weight)
        change.values[f"{name}.scale"] = scale
        if isinstance(layer.bias, Tensor):
            change.values[f"{name}.bias"] = layer.bias.detach()
    return change


def digits_of(kind: Kind, weight: Tensor, scale: Tensor) -> Tensor:
    """-1 and 1, or -1, 0 and 1, in the dtype of `weight`."""
    if kind is Kind.binary:
        return torch.where(weight >= 0, 1.0, -1.0).to(weight.dtype)
    return (weight / scale.clamp(min=torch.finfo(weight.dtype).tiny)).round().clamp(-1, 1)


def row_sums(values: Tensor) -> Tensor:
    """(rows,) in fp64. Halves are added until one column is left: a library's sum may go another way for another number of rows."""
    wide = values.to(torch.float64)
    while wide.shape[1] > 1:
        half = (wide.shape[1] + 1) // 2
        wide = wide[:, :half] + F.pad(wide[:, half:], (0, wide.shape[1] % 2))
    return wide[:, 0]


def _of_floats(x: Tensor, digits: Tensor) -> Tensor:
    return F.linear(x, digits.to(x.dtype))


def _form(knobs: Binarize) -> dict[str, Any]:
    return {"kind": knobs.kind.name, "activations": knobs.activations.name}
