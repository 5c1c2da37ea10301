"""What `quantize` does to a model. A row's integers depend on that row alone, so no rank needs another's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.compress.calibrate import block_by_block, extremes
from trainer.compress.exact import MAX_INPUTS
from trainer.compress.fake_quantized import FakeQuantized, FakeQuantizedConv2d, FakeQuantizedLinear
from trainer.compress.quantize import Kind, Quantize
from trainer.compress.quantized import Dynamic, Int4Linear, Int8, Quantized, Static, pack4
from trainer.compress.rounding import grid, of_range, round_rows, values_of
from trainer.compress.student import pruned
from trainer.compress.subject import Change, Subject, joined, local, relative
from trainer.errors import ConfigError

LAYERS: dict[Kind, type[Quantized]] = {Kind.int8: Int8, Kind.int8_dynamic: Dynamic, Kind.int8_static: Static, Kind.int4: Int4Linear}
RANGE = ("input_scale", "input_zero_point")


def check(layers: Mapping[str, nn.Module], knobs: Quantize, key: str) -> None:
    """Refuse `layers` that there are no such integers of.

    Raises:
        ConfigError: names a layer.
    """
    for name, layer in layers.items():
        weight = layer.weight
        assert isinstance(weight, Tensor)
        inputs = weight[0].numel()
        if knobs.kind is Kind.int4 and isinstance(layer, nn.Conv2d):
            raise ConfigError(f"{key}.kind=int4: is for linear layers, and {name} is a convolution; name it in {key}.exclude, or give {key}.kind=int8")
        if knobs.kind is Kind.int4 and inputs % knobs.group_size:
            fit = ", ".join(str(size) for size in range(2, inputs + 1, 2) if inputs % size == 0) or "none"
            raise ConfigError(f"{key}.group_size={knobs.group_size}: does not divide the {inputs} inputs of {name}; these do: {fit}")
        if knobs.kind.integer_products and inputs > MAX_INPUTS:
            raise ConfigError(f"{key}.kind={knobs.kind.name}: sums over the {inputs} inputs of {name} may not fit in 32 bits (at most {MAX_INPUTS} do)")


def prepare(subject: Subject, knobs: Quantize) -> Change:
    """The chosen layers as ones that compute with what their integers will stand for. A collective."""
    layers = knobs.chosen(subject.layers())
    sparse = pruned(subject)
    change = Change()
    for name, layer in layers.items():
        kind = FakeQuantizedConv2d if isinstance(layer, nn.Conv2d) else FakeQuantizedLinear
        change.forms[name] = kind.form(kind=knobs.kind.name, group_size=knobs.group_size, sparse=name in sparse)
    if knobs.kind is Kind.int8_static:
        change.values = _ranges(subject, layers, knobs)
    return change


@torch.no_grad()
def quantize(subject: Subject, knobs: Quantize) -> Change:
    """The chosen layers as integers. A collective."""
    layers = knobs.chosen(subject.layers())
    change = Change()
    if knobs.kind is Kind.int8_static:
        change.values = _trained_ranges(layers) if knobs.finetune.steps else _ranges(subject, layers, knobs)
    for name, layer in layers.items():
        values, change.told[name] = _quantized(layer, knobs)
        change.forms[name] = LAYERS[knobs.kind].form(**({"group_size": knobs.group_size} if knobs.kind is Kind.int4 else {}))
        change.values |= {f"{name}.{key}": value for key, value in values.items()}
        if knobs.kind is Kind.int8_static:
            change.told[name]["input scale"] = float(change.values[f"{name}.input_scale"])
    return change


def _quantized(layer: nn.Module, knobs: Quantize) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Values of the layer's new form, and what is told of it."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    rows = local(weight.detach()).flatten(1)
    to = grid(knobs.kind, rows.shape[1], knobs.group_size)
    found = round_rows(rows, to)
    values: dict[str, Tensor] = {}
    if knobs.kind is Kind.int4:
        values |= {"weight": pack4(found.integers), "scale": found.scale, "zero_point": found.zero_point}
    else:
        values |= {"weight": found.integers.view(-1, *weight.shape[1:]), "scale": found.scale.flatten()}
    if knobs.kind is Kind.int8_static:
        values["weight_sums"] = found.integers.sum(1, dtype=torch.int32)
    values = {key: joined(value, weight) for key, value in values.items()}
    if isinstance(bias, Tensor):
        values["bias"] = bias.detach()
    wide = rows.to(torch.float64)
    squares = torch.stack([(wide - values_of(found, to)).square().sum(), wide.square().sum()])
    dist.all_reduce(squares)
    lost, every = squares.tolist()
    return values, {"error": relative(lost, every)}


def _ranges(subject: Subject, layers: dict[str, nn.Module], knobs: Quantize) -> dict[str, Tensor]:
    """Scale and zero point of what goes into each layer. A collective."""
    values: dict[str, Tensor] = {}
    for found in block_by_block(subject, layers, knobs.calibration_samples, extremes, largest=True):
        for name, (below, above) in found.items():
            values |= _named(name, of_range(-below, above))
    return values


def _trained_ranges(layers: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Those that the layers were trained with."""
    values: dict[str, Tensor] = {}
    for name, layer in layers.items():
        assert isinstance(layer, FakeQuantized)
        values |= _named(name, tuple(getattr(layer, key).clone() for key in RANGE))
    return values


def _named(name: str, values: Any) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for key, value in zip(RANGE, values, strict=True)}
