"""Areas, infidelity and rationales of games whose answers are known."""

from __future__ import annotations

import pytest
import torch

from tests.explain.evidence.test_truth import game
from trainer.explain.evidence import faithfulness, text
from trainer.explain.evidence.check import Found

WEIGHTS = torch.tensor([4.0, 3.0, 2.0, 1.0, -2.0, -8.0], dtype=torch.float64)
SUM = game(lambda x: x @ WEIGHTS + 10, 6)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_areas_by_hand():
    found = faithfulness.measured(SUM, WEIGHTS, generator())
    assert found["insertion"] == pytest.approx((10 / 2 + 14 + 17 + 19 + 20 + 18 + 10 / 2) / 6)
    assert found["deletion"] == pytest.approx((10 / 2 + 6 + 3 + 1 + 0 + 2 + 10 / 2) / 6)
    assert found["insertion_beaten"] == found["deletion_beaten"] == 1
    assert found["infidelity"] == pytest.approx(0, abs=1e-12)
    assert found["infidelity_beaten"] > 0.99


def test_the_scale_of_values_is_free_and_their_sign_is_not():
    assert faithfulness.measured(SUM, 7 * WEIGHTS, generator())["infidelity"] == pytest.approx(0, abs=1e-12)
    found = faithfulness.measured(SUM, -WEIGHTS, generator())
    assert found["infidelity"] == 1
    assert found["insertion_beaten"] == found["deletion_beaten"] == 0


def test_infidelity_is_what_least_squares_leave():
    absent = torch.rand(50, 6, generator=generator()) < 0.5
    values = torch.rand(6, dtype=torch.float64, generator=generator())
    lost = absent.double() @ WEIGHTS.abs()
    _, left, *_ = torch.linalg.lstsq((absent.double() @ values).unsqueeze(1), lost.unsqueeze(1), driver="gelsd")
    assert faithfulness.infidelity(values, absent, lost) == pytest.approx(float(left[0] / lost.square().sum()))


def test_equal_values_are_as_good_as_chance():
    shares = [faithfulness.measured(SUM, torch.ones(6, dtype=torch.float64), torch.Generator().manual_seed(seed))["deletion_beaten"] for seed in range(40)]
    assert 0.3 < sum(shares) / len(shares) < 0.7


def test_a_decision_that_moves_by_rounding_alone_is_left_out():
    still = faithfulness.measured(game(lambda x: 5 + 1e-7 * x[:, 0], 6), WEIGHTS, generator())
    assert still == {}
    assert faithfulness.judged([sample(), sample(), sample(), {**sample(), "faithfulness": still}])[0].value == 1


def test_many_units_are_taken_in_groups():
    weights = torch.linspace(1, 0, 101, dtype=torch.float64)
    seen: list[int] = []

    def value(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return x @ weights

    found = faithfulness.measured(game(value, 101), weights, generator())
    assert sum(seen) == 22 * 21
    assert found["insertion"] == pytest.approx(float(torch.trapezoid(torch.cat([torch.zeros(1), weights.cumsum(0)]), dx=1 / 101)), rel=1e-2)


def test_rationales_by_hand():
    weights = torch.zeros(10, dtype=torch.float64)
    weights[3], weights[7] = 5.0, 1.0
    found = text.measured(game(lambda x: x @ weights, 10), weights, generator())
    assert found["comprehensiveness"] == pytest.approx((5 + 5 + 5 + 6 + 6) / 5)  # one token is the least, two are 20 %, five are 50 %
    assert found["sufficiency"] == pytest.approx((1 + 1 + 1 + 0 + 0) / 5)
    assert found["comprehensiveness_beaten"] > 0.9
    assert found["sufficiency_beaten"] > 0.9
    wrong = text.measured(game(lambda x: x @ weights, 10), -weights, generator())
    assert wrong["comprehensiveness_beaten"] < 0.5
    assert wrong["sufficiency_beaten"] < 0.5


def sample(units: int = 6, share: float = 1.0, moved: float = 0.1, kind: str = "tabular") -> Found:
    names = [(name, "text" if name in ("comprehensiveness", "sufficiency") else "faithfulness") for name in faithfulness.SHARES]
    parts: dict[str, dict[str, float]] = {"faithfulness": {}, "text": {}}
    for name, part in names:
        parts[part] |= {name: 1.0, f"{name}_beaten": share, f"{name}_random": 2.0}
    return {"units": units, "kind": kind, "sensitivity": moved, **parts}


def test_the_verdict_takes_every_measure():
    assert [one.passed for one in faithfulness.judged([sample()] * 3)] == [True] * 5
    jumps = faithfulness.judged([sample(moved=0.6)] * 3)
    assert [one.name for one in jumps if not one.passed] == ["sensitivity-max", "faithful by every measure"]
    assert faithfulness.judged([sample(share=0.8)] * 3)[-1].value == 1


def test_text_has_two_more():
    names = [one.name for one in faithfulness.judged([sample(kind="text")] * 3)]
    assert names[3:5] == ["comprehensiveness", "sufficiency"]


def test_no_verdict_by_one_measure():
    few = faithfulness.judged([sample(units=3)] * 5)
    assert [one.passed for one in few] == [None, None, None, True, None]
    assert [one.passed for one in faithfulness.judged([sample()] * 2)] == [None, None, None, True, None]
