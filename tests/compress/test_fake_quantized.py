"""Training with what quantization will make of a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import ranks
from tests.compress import small
from tests.compress.test_quantized import CONV, LINEAR, filled, inputs
from trainer.compress.fake_quantized import FakeQuantizedConv2d, FakeQuantizedLinear
from trainer.compress.prune import Importance, Prune
from trainer.compress.quantize import Kind, Quantize
from trainer.compress.quantized import Dynamic, Int8, Static


def trained_form(original: Any, kind: Kind, sparse: bool = False) -> Any:
    layer: Any = (FakeQuantizedConv2d if isinstance(original, nn.Conv2d) else FakeQuantizedLinear).replacing(
        original, kind=kind.name, group_size=4, sparse=sparse
    )
    layer.load_state_dict(original.state_dict(), strict=False)
    return layer


@pytest.mark.parametrize(("original", "shape"), [LINEAR, CONV], ids=["linear", "conv"])
@pytest.mark.parametrize(("kind", "becomes"), [(Kind.int8, Int8), (Kind.int8_dynamic, Dynamic), (Kind.int8_static, Static)])
def test_a_layer_gives_in_training_what_its_integers_will_give(kind: Kind, becomes, original: Any, shape: tuple[int, ...]) -> None:
    later = filled(becomes, original)
    layer = trained_form(original, kind)
    if kind is Kind.int8_static:
        layer.input_scale, layer.input_zero_point = later.input_scale, later.input_zero_point
    x = inputs(shape).requires_grad_()
    y = layer(x)
    torch.testing.assert_close(y, later(x.detach()), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(y, original(x), rtol=1e-4, atol=1e-4)
    if kind.integer_products:  # what comes in is bit by bit what the integers stand for
        levels, scale, zero_point = later.levels(x.detach())
        assert torch.equal(layer.rounded(x), (levels - (0 if zero_point is None else zero_point)) * scale)
    y.sum().backward()
    assert (layer.weight.grad != 0).any()
    assert x.grad is not None
    beyond = (x.detach() < -1.55) | (x.detach() > 4.05)
    assert beyond.any()
    assert (x.grad[beyond] == 0).all() == (kind is Kind.int8_static)


def test_pruned_weights_stay_pruned() -> None:
    original = nn.Linear(24, 7)
    original.weight.data[:, ::2] = 0
    for sparse in (True, False):
        layer = trained_form(original, Kind.int4, sparse)
        layer(inputs((2, 5, 24))).sum().backward()
        assert (layer.weight.grad[:, ::2] == 0).all() == sparse
        assert (layer.weight.grad[:, 1::2] != 0).any()


def prepared(kind: str, prune: bool) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """The forms and the ranges that `prepare` gives the small model."""
    now = small.subject(small.config())
    if prune:
        Prune(importance=Importance.magnitude, exclude=["*k_proj"]).run(now)
    change = Quantize(kind=Kind[kind], group_size=6, calibration_samples=18).prepare(now)
    return change.forms, change.values


def test_layers_are_prepared_with_their_ranges_and_pruned_ones_are_known() -> None:
    (forms, values), *_ = ranks.run(2, prepared, "int8_static", True, preload=["trainer.compress.integers"])
    assert {name.rpartition(".")[2]: form["sparse"] for name, form in forms.items()} == {
        "q_proj": True, "k_proj": False, "v_proj": True, "o_proj": True, "gate_proj": True, "up_proj": True, "down_proj": True,
    }  # fmt: skip
    assert values.keys() == {f"{name}.{key}" for name in forms for key in ("input_scale", "input_zero_point")}
    assert all(value > 0 for name, value in values.items() if name.endswith("scale"))
