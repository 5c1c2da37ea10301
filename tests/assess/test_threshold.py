"""The cheapest threshold is the cheapest of all that there are, and what comes of it is counted."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.assess.threshold import Costs, cheapest, cost_curve, outcomes


def cost(bad: np.ndarray, refused: np.ndarray, costs: Costs) -> float:
    """Applicant by applicant."""
    return sum(costs.default if b and not r else costs.refusal if r and not b else 0.0 for b, r in zip(bad, refused, strict=True))


def people(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    probability = np.round(draw.random(count), 2)
    return draw.random(count) < probability, probability


@pytest.mark.parametrize("costs", [Costs(1, 1), Costs(5, 1), Costs(1, 20), Costs(0.3, 0.2)])
@pytest.mark.parametrize("seed", range(6))
def test_no_threshold_is_cheaper(seed, costs):
    bad, probability = people(seed)
    found = cheapest(bad, probability, costs)
    every = [-1.0, *np.unique(probability), 2.0]
    assert cost(bad, probability >= found, costs) == pytest.approx(min(cost(bad, probability >= cut, costs) for cut in every))
    assert found not in probability or found in (0.0, costs.exact())  # between two people, so that a rounding decides nothing


def test_of_several_it_is_the_one_nearest_to_that_for_exact_probabilities():
    bad, probability = np.array([False, False, True, True]), np.array([0.1, 0.2, 0.6, 0.9])
    assert cheapest(bad, probability, Costs(1, 1)) == 0.5  # anything from 0.2 to 0.6 costs nothing
    assert cheapest(bad, probability, Costs(1, 9)) == pytest.approx(0.4)  # 0.9 does not, and the gap below it is the nearest
    assert cheapest(np.array([True, True]), np.array([0.6, 0.9]), Costs(1, 1)) == 0.5
    assert cheapest(np.array([True, True]), np.array([0.3, 0.9]), Costs(1, 1)) == 0.0  # all are refused
    two = np.array([False, True, False, True]), np.array([0.1, 0.2, 0.6, 0.9])  # from 0.1 to 0.2, and from 0.6 to 0.9
    assert cheapest(*two, Costs(1, 1)) == 0.75
    nobody = cheapest(np.array([False, False]), np.array([0.3, 1.0]), Costs(1, 1))
    assert nobody > 1.0


def test_what_comes_of_a_decision():
    bad, probability = people(7)
    refused, costs = probability >= 0.5, Costs(5, 2)
    counts = np.random.default_rng(0).integers(0, 4, (3, 40)).astype(float)
    found = outcomes(bad, refused, costs)(counts)
    for i, row in enumerate(counts.astype(int)):
        b, r = np.repeat(bad, row), np.repeat(refused, row)
        assert found["refused"][i] == pytest.approx(r.mean())
        assert found["defaults_accepted"][i] == pytest.approx((b & ~r).mean())
        assert found["good_refused"][i] == pytest.approx((~b & r).mean())
        assert found["cost"][i] == pytest.approx(cost(b, r, costs) / len(b))
        assert found["against_none"][i] == pytest.approx((cost(b, r, costs) - cost(b, np.zeros_like(r), costs)) / len(b))
        assert found["against_all"][i] == pytest.approx((cost(b, r, costs) - cost(b, np.ones_like(r), costs)) / len(b))


def test_the_cost_curve_goes_from_nobody_to_everybody():
    bad, probability = people(8, 30)
    costs = Costs(3, 1)
    found = cost_curve(bad, probability, costs)
    every = sorted({0.0, *((probability >= cut).mean() for cut in probability)})
    assert [share for share, _ in found] == pytest.approx(every)  # people of one probability are refused together
    for share, per_applicant in found:
        refused = probability >= np.sort(probability)[::-1][round(share * 30) - 1] if share else np.zeros(30, bool)
        assert per_applicant == pytest.approx(cost(bad, refused, costs) / 30)
    assert len(cost_curve(*people(1, 2000), costs, points=20)) == 20
