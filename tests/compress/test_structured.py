"""What goes together, what it is worth, and that nothing else changes."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("torch_pruning")

from tests import ranks
from tests.compress import small
from trainer.compress.groups import plan
from trainer.compress.norms import correct, moments, running
from trainer.compress.prune import Importance
from trainer.compress.removal import removed
from trainer.compress.sensitivity import cheapest_first, farthest
from trainer.compress.slim import Slim
from trainer.compress.slimming import Channels
from trainer.compress.structured import PruneStructured
from trainer.compress.subject import Change, Subject, whole
from trainer.data.pages import Pages
from trainer.errors import ConfigError
from trainer.models.craft import Craft
from trainer.models.gpt import GPT
from trainer.posttrain.values import changed, without_values


def gpt_subject(kv_heads: int = 2) -> Subject:
    config = small.config()
    config.model = GPT(layers=2, dim=24, heads=4, kv_heads=kv_heads, ffn_dim=48, sample_tokens=0)
    return small.subject(config)


def logits(subject: Subject) -> Tensor:
    return subject.model.outputs(subject.engine.module, subject.samples.batch(range(4)))


def after(subject: Subject, change: Change) -> Subject:
    return changed(subject, change, small.config())


@torch.no_grad()
def what_nobody_reads_is_what_goes() -> tuple[bool, dict[str, Any], list[tuple[int, ...]], float]:
    """Half of the hidden units and one of two groups of heads are not read; just they go, and the logits stay."""
    subject = gpt_subject()
    for block in subject.engine.module.layers:  # type: ignore[union-attr]
        block.mlp.down_proj.weight[:, torch.arange(0, 48, 2)] = 0
        block.self_attn.o_proj.weight[:, 12:] = 0
    before = logits(subject)
    change = PruneStructured(ratio=0.5, calibration_samples=8).run(subject)
    now = after(subject, change)
    assert isinstance(now.model, Slim)
    shapes = [tuple(parameter.shape) for parameter in now.engine.module.layers[0].parameters()]  # type: ignore[index, union-attr]
    return torch.allclose(logits(now), before, atol=1e-6), change.told, shapes, float(before.std())


def test_what_nobody_reads_goes_with_all_that_gives_it() -> None:
    ((same, told, shapes, spread),) = ranks.run(1, what_nobody_reads_is_what_goes)
    assert spread > 1e-3
    assert same
    assert told["layers.0.mlp.up_proj"] == {"before": 48, "after": 24}
    assert told["layers.1.self_attn.k_proj"] == {"before": 2, "after": 1}
    assert sorted(shapes) == sorted([(24,), (24,), (12, 24), (6, 24), (6, 24), (24, 12), (24, 24), (24, 24), (24, 24)])


def detector(channels: int = 8) -> Subject:
    config = small.config()
    config.model = Craft(path=None, channels=channels)
    config.data = Pages(height=32, width=48, words=2, samples=4, largest=14)
    samples = config.data.open("train")
    return Subject(config.model, without_values(config.model, config, samples, torch.device("cpu")), samples, 2)


@torch.no_grad()
def what_is_constant_goes_into_biases() -> tuple[float, float, list[int]]:
    subject = detector()
    norm = subject.engine.module.get_submodule("basenet.slice4.35")
    norm.weight[:32] = 0  # type: ignore[index]
    norm.bias[:32] = torch.rand(32)  # type: ignore[index]
    before = subject.model.outputs(subject.engine.module, subject.samples.batch(range(2)))
    change = PruneStructured(ratio=0.5, layers=["basenet.slice4.34"], calibration_samples=2).run(subject)
    now = after(subject, change)
    inner = subject.model.outputs(now.engine.module, subject.samples.batch(range(2)))
    assert isinstance(now.model, Slim)
    return float((inner - before).abs().max()), float(before.std()), now.model.widths["basenet.slice4.34"]


def test_what_is_constant_goes_into_biases() -> None:
    ((error, spread, widths),) = ranks.run(1, what_is_constant_goes_into_biases)
    assert widths == [32, 64]
    assert error < 0.02 * spread  # at the edges, where zeros are beside it, a channel is not constant


@torch.no_grad()
def corrected() -> list[tuple[float, float]]:
    """(what is left of the error, the error) of two features after the scale and shift of a convolution before each."""
    subject = detector()
    backbone = subject.engine.module.get_submodule("basenet")
    images = subject.samples.batch(range(4))["images"]
    norms = running(backbone)
    for norm in norms.values():
        norm.momentum = None
        nn.BatchNorm2d.train(norm)  # the statistics become those of these pictures
    backbone(images)
    backbone.eval()
    before = moments(subject, 4)
    there = backbone(images)
    for name in ("slice1.0", "slice3.24"):
        for value in backbone.get_submodule(name).parameters():
            value.mul_(3).add_(0.1 if value.ndim == 1 else 0)
    astray = backbone(images)
    correct(subject, before, 4)
    back = backbone(images)
    return [(float((back[i] - there[i]).abs().max()), float((astray[i] - there[i]).abs().max())) for i in (-1, 2)]


def test_normalisations_undo_a_scale_and_a_shift_before_them() -> None:
    (found,) = ranks.run(1, corrected)
    for back, astray in found:
        assert 0 < back < 0.01 * astray


def detector_plan() -> tuple[Any, Any]:
    samples = Pages(height=32, width=48, words=2, samples=1, largest=14).open("train")
    model = Craft(path=None, channels=8)
    return model, (plan(model, samples, lambda _: True), samples)


def test_macs_are_those_that_torch_counts_in_what_is_left() -> None:
    model, (found, samples) = detector_plan()
    assert len(found.groups) == 26
    widths: dict[str, list[int]] = {name: list(shape[:2]) for name, shape in found.shapes.items()}
    ratios = {group.name: 0.25 for group in found.groups}
    for group in found.groups:
        for member in group.members:
            widths[member.layer][member.side] -= removed(group, 0.25, 2) * len(member.rows) // group.size
    module = Slim(base=model, widths=widths).build(samples.spec)
    with FlopCounterMode(display=False) as counter:
        module(samples.batch([0])["images"])
    assert counter.get_total_flops() == 2 * Channels(found, 2).macs(ratios)
    assert Channels(found, 2).macs(ratios) < 0.65 * Channels(found, 2).macs({})


def test_what_costs_least_for_what_it_saves_goes_first() -> None:
    _, (found, _) = detector_plan()
    sizes, cheap = Channels(found, 2), "basenet.slice2.14"
    path = list(cheapest_first(sizes, {name: [0.0, 0.0] if name == cheap else [1.0, 3.0] for name in sizes.names}, [0.25, 0.5]))
    assert [{name for name, ratio in ratios.items() if ratio} for ratios in path[:9]] == [set(), *[{cheap}] * 8]
    assert path[8][cheap] == 0.5
    amounts = [Channels(found, 2).macs(ratios) for ratios in path]
    assert amounts == sorted(amounts, reverse=True)
    assert all(removed(group, path[-1][group.name], 2) == removed(group, 0.5, 2) for group in found.groups)


@pytest.mark.parametrize("last", range(5))
def test_the_last_that_is_good_is_found(last: int) -> None:
    path = [{"a": float(number)} for number in range(5)]
    assert farthest(path, lambda ratios: ratios["a"] <= last)["a"] == last


@pytest.mark.parametrize(("ratio", "gone"), [(0.2, 16), (0.01, 0), (0.9, 56), (0.99, 56)])
def test_what_is_left_is_a_multiple(ratio: float, gone: int) -> None:
    _, (found, _) = detector_plan()
    group = next(group for group in found.groups if group.name == "basenet.slice4.34")
    assert group.size == 64
    assert removed(group, ratio, 8) == gone


SEVERAL = {
    "magnitude": PruneStructured(ratio=0.3, importance=Importance.magnitude, multiple=2),
    "wanda": PruneStructured(ratio=0.3, calibration_samples=18, multiple=2),
    "macs": PruneStructured(macs=0.7, calibration_samples=18, scan_samples=8, scan_ratios=[0.25, 0.5], multiple=2),
    "loss_rise": PruneStructured(loss_rise=0.0005, calibration_samples=18, scan_samples=8, scan_ratios=[0.25, 0.5], multiple=2),
}


def all_of() -> dict[str, dict[str, Tensor]]:
    found = {}
    for name, part in SEVERAL.items():
        subject = gpt_subject()
        found[name] = {key: whole(value).clone() for key, value in after(subject, part.run(subject)).values().items()}
    return found


@functools.cache
def on(world_size: int) -> list[dict[str, dict[str, Tensor]]]:
    return ranks.run(world_size, all_of)


@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.large)])
@pytest.mark.parametrize("how", SEVERAL)
def test_the_same_goes_on_any_number_of_ranks(how: str, world_size: int) -> None:
    expected = on(1)[0][how]
    assert sum(value.numel() for value in expected.values()) < sum(value.numel() for value in gpt_numel().values())
    for found in on(world_size):
        for name, value in expected.items():
            torch.testing.assert_close(found[how][name], value, rtol=0, atol=1e-7)


@functools.cache
def gpt_numel() -> dict[str, Tensor]:
    samples = small.config().data.open("train")
    with torch.device("meta"):
        return dict(GPT(layers=2, dim=24, heads=4, kv_heads=2, ffn_dim=48).build(samples.spec).named_parameters())


@pytest.mark.parametrize(
    ("knobs", "what"),
    [
        ({"ratio": 1.0}, "compress.prune_structured.ratio=1.0: must be between 0 and 1, such as 0.5"),
        ({"ratio": 0.5, "macs": 0.5}, "compress.prune_structured: ratio and macs are given; give one of them"),
        ({"loss_rise": 0.0}, "compress.prune_structured.loss_rise=0.0: must be above 0"),
        ({"multiple": 0}, "compress.prune_structured.multiple=0: must be at least 1"),
        ({"scan_ratios": [0.5, 0.25]}, "compress.prune_structured.scan_ratios=[0.5, 0.25]: must be rising shares between 0 and 1, such as [0.25,0.5]"),
    ],
)
def test_what_cannot_be(knobs: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError) as error:
        PruneStructured(**knobs).validate()
    assert str(error.value) == what
