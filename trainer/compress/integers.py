"""The arithmetic of `quantize`. A row's integers depend on that row alone, so no rank needs another's."""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.compress.form import CompressedLayer
from trainer.compress.quantize import Quantize
from trainer.compress.subject import Change, Subject, error, local

LEVELS = 127


class Int8Linear(CompressedLayer):
    """y = (x Q^T) s + b, with int8 Q (outputs, inputs) and one scale s for each output."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(torch.empty(outputs), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    @classmethod
    def replacing(cls, original: nn.Module, **_: Any) -> Self:
        assert isinstance(original, nn.Linear)
        return cls(original.in_features, original.out_features, original.bias is not None)

    def reset_parameters(self) -> None:
        """Zero, until a checkpoint is loaded."""
        for parameter in self.parameters(recurse=False):
            parameter.zero_()

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)


def to_int8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Integers in [-127, 127] and the scale of each row: the nearest to rows / scale, ties to even."""
    scale = rows.abs().amax(1) / LEVELS
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (rows / safe.unsqueeze(1)).round().clamp(-LEVELS, LEVELS).to(torch.int8), safe


@torch.no_grad()
def quantize(subject: Subject, knobs: Quantize) -> Change:
    """The chosen linear layers in int8."""
    from torch.distributed.tensor import DTensor

    change = Change()
    for name, layer in knobs.chosen(subject.layers()).items():
        if not isinstance(layer, nn.Linear):
            continue
        weight = layer.weight
        integers, scale = to_int8(local(weight.detach()))
        change.forms[name] = Int8Linear.form()
        change.told[name] = {"error": error(local(weight.detach()), integers * scale.unsqueeze(1))}
        for key, value in (("weight", integers), ("scale", scale)):
            if isinstance(weight, DTensor):
                shape = torch.Size((weight.shape[0], *value.shape[1:]))
                value = DTensor.from_local(
                    value, weight.device_mesh, weight.placements, run_check=False, shape=shape, stride=torch.empty(shape, device="meta").stride()
                )
            change.values[f"{name}.{key}"] = value
        if layer.bias is not None:
            change.values[f"{name}.bias"] = layer.bias.detach()
    return change
