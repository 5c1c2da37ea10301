"""What quantization does to a model: what it refuses, what it finds by calibration, and what it tells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests import ranks
from tests.compress import small
from trainer.compress.calibrate import block_by_block, extremes
from trainer.compress.exact import MAX_INPUTS
from trainer.compress.quantize import Kind, Quantize
from trainer.compress.subject import whole
from trainer.errors import ConfigError


@pytest.mark.parametrize(
    ("knobs", "layer", "says"),
    [
        ({"kind": Kind.int4}, nn.Linear(24, 4), "q.group_size=32: does not divide the 24 inputs of a.b; these do: 2, 4, 6, 8, 12, 24"),
        ({"kind": Kind.int4}, nn.Linear(7, 4), "these do: none"),
        ({"kind": Kind.int4}, nn.Conv2d(32, 4, 1), "q.kind=int4: is for linear layers, and a.b is a convolution; name it in q.exclude"),
        ({"kind": Kind.int8_static}, nn.Linear(MAX_INPUTS + 1, 1, device="meta"), "q.kind=int8_static: sums over the 66312 inputs of a.b may not fit"),
        ({"layers": ["c"]}, nn.Linear(24, 4), "choose none of the model's 1 layers"),
    ],
)
def test_layers_that_there_are_no_such_integers_of_are_refused(knobs, layer: nn.Module, says: str) -> None:
    with pytest.raises(ConfigError, match=r"^q") as raised:
        Quantize(**knobs).check({"a.b": layer}, "q")
    assert says in str(raised.value)


def test_layers_that_fit_are_taken() -> None:
    layers = {"a": nn.Linear(64, 4), "b": nn.Conv2d(3, 4, 3)}
    Quantize().check(layers, "q")
    Quantize(kind=Kind.int8_static).check(layers, "q")
    Quantize(kind=Kind.int4, exclude=["b"]).check(layers, "q")


@pytest.mark.parametrize(("key", "value"), [("group_size", 0), ("group_size", 33), ("calibration_samples", 0)])
def test_values_that_cannot_work_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^compress.quantize.{key}={value}: must be"):
        Quantize(**{key: value}).validate()


def test_without_torchao_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.compress.quantize.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"needs the package 'torchao'.*\[compress\]"):
        Quantize().validate()


def seen() -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """How far below and above 0 what goes into the layers of the first block reaches: by calibration, and in all of the samples at once."""
    now = small.subject(small.config())
    layers = now.layers()
    by_calibration = {name: found.tolist() for name, found in next(iter(block_by_block(now, layers, 18, extremes, largest=True))).items()}
    reached: dict[str, list[float]] = {}

    def note(name: str):
        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            reached[name] = [max(0.0, -args[0].min().item()), max(0.0, args[0].max().item())]

        return hook

    handles = [layers[name].register_forward_pre_hook(note(name)) for name in by_calibration]
    with torch.no_grad():
        now.engine.metrics(now.model, now.samples.batch(range(18)))
    for handle in handles:
        handle.remove()
    return by_calibration, reached


def told() -> list[dict[str, dict[str, float]]]:
    """What is told of each layer by int8 and int4; and the same from whole weights."""
    now = small.subject(small.config())
    found = []
    for knobs in (Quantize(), Quantize(kind=Kind.int4, group_size=6)):
        change = knobs.run(now)
        found.append({name: {"told": figures["error"]} for name, figures in change.told.items()})
        for name, layer in now.layers().items():
            weight = whole(layer.weight.detach()).double()  # type: ignore[operator]
            integers, scale = (whole(change.values[f"{name}.{key}"]) for key in ("weight", "scale"))
            if knobs.kind is Kind.int8:
                stands_for = integers.double() * scale.unsqueeze(1)
            else:
                digits = torch.stack([integers % 16, integers // 16], dim=2).view(*scale.shape, 6)
                zero_point = whole(change.values[f"{name}.zero_point"]).double()
                stands_for = ((digits - zero_point.unsqueeze(2)) * scale.unsqueeze(2)).view_as(weight)
            found[-1][name]["found"] = ((weight - stands_for).norm() / weight.norm()).item()
    return found


def test_a_range_is_that_of_all_samples_on_all_ranks() -> None:
    for by_calibration, reached in ranks.run(2, seen, preload=["trainer.compress.integers"]):
        assert len(by_calibration) == 7
        assert by_calibration.keys() == reached.keys()
        for name, found in by_calibration.items():
            assert found == pytest.approx(reached[name], rel=1e-5)


def test_the_error_that_is_told_is_that_of_the_whole_layer() -> None:
    for kinds in ranks.run(2, told, preload=["trainer.compress.integers"]):
        for layers, (least, most) in zip(kinds, [(0.003, 0.008), (0.03, 0.08)], strict=True):
            for figures in layers.values():
                assert figures["told"] == pytest.approx(figures["found"], rel=1e-6)
                assert least < figures["told"] < most
