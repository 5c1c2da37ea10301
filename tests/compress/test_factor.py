"""Which rank each layer has for a size in all, against every choice that there is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from tests import ranks
from tests.compress import small
from trainer.compress.factor import LEAST, allot
from trainer.compress.low_rank import LowRank

SHAPES = {"a": (9, 7), "b": (8, 8), "c": (6, 12)}


def spectra(seed: int) -> dict[str, Tensor]:
    """Of quite different fall."""
    torch.manual_seed(seed)
    return {
        name: (torch.rand(min(shape), dtype=torch.float64) ** (2 * place + 1)).sort(descending=True).values
        for place, (name, shape) in enumerate(SHAPES.items())
    }


def cost(found: dict[str, int]) -> int:
    return sum(min(found[name] * sum(shape), math.prod(shape)) for name, shape in SHAPES.items())


def lost(found: dict[str, int], squares: dict[str, Tensor]) -> float:
    """Shares of energy, each times what a rank takes there; nothing where the product would not be smaller."""
    return sum(
        sum(shape) * float(squares[name][found[name] :].sum() / squares[name].sum()) * (found[name] * sum(shape) < math.prod(shape))
        for name, shape in SHAPES.items()
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("left", [0.6, 0.75, 0.9])
def test_little_that_takes_no_more_loses_less(seed: int, left: float) -> None:
    squares, room = spectra(seed), left * sum(map(math.prod, SHAPES.values()))
    least = {name: max(1, int(LEAST * left * math.prod(shape) / sum(shape))) for name, shape in SHAPES.items()}
    found = allot(squares, SHAPES, left)
    every = [dict(zip(SHAPES, each, strict=True)) for each in itertools.product(*(range(least[name], min(shape) + 1) for name, shape in SHAPES.items()))]
    best = min(lost(each, squares) for each in every if cost(each) <= room)
    assert cost(found) <= room
    assert lost(found, squares) <= 1.05 * best
    assert all(cost({**found, name: found[name] + 1}) > room for name, shape in SHAPES.items() if found[name] < min(shape))


def test_no_layer_is_left_a_few_directions_because_they_have_all_the_energy() -> None:
    shapes = dict.fromkeys("ab", (40, 40))
    slow, steep = torch.linspace(2, 1, 40, dtype=torch.float64), torch.full((40,), 1e-9, dtype=torch.float64)
    steep[0] = 1.0
    assert allot({"a": slow, "b": steep}, shapes, 0.6) == {"a": 18, "b": 6}  # half of 0.6 x 20 in b, and what is left for a
    assert allot({"a": slow}, {"a": (40, 40)}, 0.8) == {"a": 16}
    assert allot({"a": slow, "b": steep}, shapes, 0.7) == {"a": 40, "b": 8}  # 7, and one more that fits


def one_layer_matters_little() -> tuple[dict[str, float], dict[str, float], float]:
    """Ranks, when one weight has no more than three directions; and the share of the parameters that is left."""
    now = small.subject(small.config())
    low = now.layers()["layers.1.mlp.up_proj"].weight
    with torch.no_grad():
        u, s, vt = torch.linalg.svd(low)  # type: ignore[arg-type]
        low.copy_((u[:, :3] * s[:3]) @ vt[:3])  # type: ignore[operator]
    before = sum(layer.weight.numel() for layer in now.layers().values())  # type: ignore[union-attr, operator, misc]
    change = LowRank(ratio=0.3, calibration_samples=8).run(now)
    told = change.told
    after = sum(
        change.values[f"{name}.down.weight"].numel() + change.values[f"{name}.up.weight"].numel() if name in change.forms else layer.weight.numel()  # type: ignore[union-attr, operator]
        for name, layer in now.layers().items()
    )
    return {name: each["rank"] for name, each in told.items()}, {name: each["error"] for name, each in told.items()}, after / before  # type: ignore[operator]


def test_a_layer_that_needs_little_makes_room_for_the_others() -> None:
    ((found, errors, left),) = ranks.run(1, one_layer_matters_little)
    assert 0.6 < left <= 0.7
    assert found["layers.1.mlp.up_proj"] < found["layers.0.mlp.up_proj"]
    assert errors["layers.1.mlp.up_proj"] == pytest.approx(0, abs=1e-5)
