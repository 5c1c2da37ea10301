"""How much of each layer goes: what a scan finds, and that it keeps to what was asked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests import ranks
from tests.compress import small
from trainer.compress.prune import Importance, Prune, Scope
from trainer.compress.pruning import Weights
from trainer.compress.sensitivity import STEP, cheapest_first, mean_loss
from trainer.compress.subject import Subject
from trainer.errors import ConfigError
from trainer.posttrain.values import changed

KNOBS: dict[str, Any] = {"calibration_samples": 8, "scan_samples": 8}
UNREAD = tuple(f"layers.1.self_attn.{kind}_proj" for kind in "qkvo")


@torch.enable_grad()
def subject() -> Subject:
    """It has learnt its samples by heart. What the second attention gives is not read."""
    now = small.subject(small.config())
    module, batch = now.engine.module, now.samples.batch(range(8))
    unread = module.get_submodule("layers.1.self_attn.o_proj").weight
    torch.nn.init.zeros_(unread.requires_grad_(False))  # type: ignore[arg-type, union-attr, operator]
    optimizer = torch.optim.Adam([parameter for parameter in module.parameters() if parameter.requires_grad], lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        now.model.loss(module, batch).backward()
        optimizer.step()
    return now


def anew(now: Subject) -> Iterator[Subject]:
    """`now` again and again, with the values that it has at first."""
    values = {name: value.clone() for name, value in now.values().items()}
    while True:
        for name, value in now.values().items():
            value.copy_(values[name])
        yield now


def zeros(now: Subject) -> dict[str, float]:
    return {name: float((layer.weight == 0).float().mean()) for name, layer in now.layers().items()}  # type: ignore[union-attr, arg-type]


def overall(now: Subject) -> float:
    weights = [layer.weight for layer in now.layers().values()]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)  # type: ignore[union-attr, arg-type, operator, misc]


@torch.no_grad()
def losses() -> dict[str, tuple[float, float, dict[str, float], dict[str, Any]]]:
    """By how it was pruned: the loss after it, zeros in all, zeros by layer, what is told."""
    found = {}
    parts = {
        "as it is": None,
        "wanda, alike": Prune(sparsity=0.6, calibration_samples=8),
        "wanda": Prune(zeros=0.6, **KNOBS),
        "magnitude, alike": Prune(sparsity=0.6, importance=Importance.magnitude, scope=Scope.layer),
        "magnitude": Prune(zeros=0.6, importance=Importance.magnitude, scope=Scope.layer, **KNOBS),
    }
    for (name, part), now in zip(parts.items(), anew(subject()), strict=False):
        told = part.run(now).told if part else {}
        found[name] = (mean_loss(now, 8), overall(now), zeros(now), told)
    return found


def test_layers_that_bear_it_lose_more_so_that_less_is_lost_by_as_many_zeros() -> None:
    (found,) = ranks.run(1, losses)
    dense = found["as it is"][0]
    for name in ("wanda", "magnitude"):
        loss, gone, shares, told = found[name]
        assert 0.6 <= gone < 0.6 + STEP
        assert all(told[layer]["zeros"] == pytest.approx(share) for layer, share in shares.items())
        assert all(told[layer]["loss at 0.5"] == pytest.approx(0, abs=1e-6) for layer in UNREAD)
        assert all(shares[layer] >= 0.74 for layer in UNREAD)
        assert 0 < loss - dense < 0.6 * (found[f"{name}, alike"][0] - dense)


@torch.no_grad()
def limits() -> list[tuple[float, float, float]]:
    """(zeros in all, the rise of the loss, the limit): less goes for less."""
    found = []
    for (limit, importance), now in zip(itertools.product((0.02, 0.2), Importance), anew(subject()), strict=False):
        before = mean_loss(now, 8)
        Prune(loss_rise=limit, importance=importance, **KNOBS).run(now)
        found.append((overall(now), mean_loss(now, 8) / before - 1, limit))
    return found


def test_the_loss_rises_by_no_more_than_was_asked() -> None:
    (found,) = ranks.run(1, limits)
    for gone, rise, limit in found:
        assert rise <= limit + 1e-9
        assert gone > 0.15  # what is not read, at least
    assert found[0][0] < found[2][0]
    assert found[1][0] < found[3][0]


def trained() -> tuple[dict[str, float], dict[str, float], dict[str, dict[str, float]]]:
    part = Prune(zeros=0.5, importance=Importance.magnitude, **KNOBS)
    part.finetune.steps = 2
    part.validate()
    before = subject()
    prepared = part.prepare(before)
    now = changed(before, prepared, small.config())
    now = changed(now, part.run(now), small.config())
    return {name: form["sparsity"] for name, form in prepared.forms.items()}, zeros(now), prepared.told


def test_each_layer_is_trained_and_pruned_at_its_own_sparsity() -> None:
    ((asked, found, told),) = ranks.run(1, trained)
    assert len(set(asked.values())) > 2
    for name, share in asked.items():
        assert found[name] == pytest.approx(1.0 if name == "layers.1.self_attn.o_proj" else share, abs=1 / 24)
    assert told.keys() == asked.keys()


def brute(sizes: Weights, costs: dict[str, Callable[[float], float]], shares: list[float], gone: float) -> float:
    """The least that costs when so much at least is to go."""
    every = (dict(zip(sizes.names, each, strict=True)) for each in itertools.product(shares, repeat=len(sizes.names)))
    return min(sum(costs[name](share) for name, share in each.items()) for each in every if 1 - sizes.left(each) >= gone - 1e-9)


def test_of_convex_costs_the_path_is_the_best_there_is() -> None:
    """Three layers of equal size, whose losses rise ever faster: for each amount that goes, no other choice costs less."""
    sizes = Weights(dict.fromkeys("abc", (4, 64)))
    at = [STEP * number for number in range(1, 9)]
    costs = {"a": lambda share: share**2, "b": lambda share: 0.2 * share**2 + 0.1 * share, "c": lambda share: 3 * share**3 + 0.05 * share}
    rises = {name: [cost(share) for share in at] for name, cost in costs.items()}
    path = list(cheapest_first(sizes, rises, at))
    assert len(path) == 1 + 3 * 8
    for shares in path[::3]:
        found = sum(costs[name](share) for name, share in shares.items())
        assert found == pytest.approx(brute(sizes, costs, [0.0, *at], 1 - sizes.left(shares)))


def test_of_what_costs_as_much_the_larger_goes_first() -> None:
    sizes = Weights({"small": (4, 16), "large": (4, 64)})
    path = list(cheapest_first(sizes, {name: [0.1, 0.2] for name in sizes.names}, [0.25, 0.5]))
    assert path[8] == {"small": 0.0, "large": 0.5}


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_leaves_no_loss_goes_last(broken: float) -> None:
    sizes = Weights(dict.fromkeys("ab", (4, 64)))
    path = list(cheapest_first(sizes, {"a": [broken, broken], "b": [0.5, 1.0]}, [0.25, 0.5]))
    assert path[8] == {"a": 0.0, "b": 0.5}
    assert path[-1] == {"a": 0.5, "b": 0.5}


def test_what_goes_is_counted_as_it_is_pruned() -> None:
    sizes = Weights({"rows": (3, 10), "whole": (1, 30)})
    assert (sizes.gone("rows", 0.25), sizes.gone("whole", 0.25)) == (3 * 2, 8)
    assert sizes.left({"rows": 0.5, "whole": 0.1}) == pytest.approx(1 - 18 / 60)


@pytest.mark.parametrize(
    ("knobs", "what"),
    [
        ({"sparsity": 0.5, "pattern": "2:4"}, "compress.prune: sparsity and pattern are given; give one of them"),
        ({"zeros": 0.5, "loss_rise": 0.1}, "compress.prune: zeros and loss_rise are given; give one of them"),
        ({"zeros": 1.5}, "compress.prune.zeros=1.5: must be between 0 and 1, such as 0.5"),
        ({"zeros": 0.8}, "compress.prune.zeros=0.8: is more than the last of scan_ratios=[0.25, 0.5, 0.75], the most that goes of any layer"),
        ({"loss_rise": -1.0}, "compress.prune.loss_rise=-1.0: must be above 0"),
        ({"scan_samples": 0}, "compress.prune.scan_samples=0: must be at least 1"),
        ({"scan_ratios": []}, "compress.prune.scan_ratios=[]: must be rising shares between 0 and 1, such as [0.25,0.5]"),
        (
            {"pattern": "2:4", "scope": Scope.layer, "importance": Importance.magnitude},
            "compress.prune.scope=layer: has no effect with pattern=2:4, which compares within groups; leave it out",
        ),
    ],
)
def test_what_cannot_be(knobs: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError) as error:
        Prune(**knobs).validate()
    assert str(error.value) == what
