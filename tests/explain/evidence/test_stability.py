"""Agreement of values, against scipy; intervals that are honest and some that are not; inputs nearby."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from tests.explain.evidence.explainers import InputNoise, Orders
from tests.explain.evidence.small import decisions
from tests.explain.evidence.test_truth import bent, game
from trainer.explain.base import Explainer
from trainer.explain.case import Attribution, Case
from trainer.explain.evidence import agreement, sensitivity, stability
from trainer.explain.evidence.ranks import overlap, rank_correlation, same_signs, top


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def spearmans(one: Any, other: Any) -> float:
    found: Any = spearmanr(one, other)
    return float(found.statistic)


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_spearmans(seed):
    generator = np.random.default_rng(seed)
    one, other = generator.integers(0, 6, 12), generator.integers(0, 6, 12) + generator.integers(0, 2, 12)
    found = rank_correlation(torch.from_numpy(one).double(), torch.from_numpy(other).double())
    assert found == pytest.approx(spearmans(one, other))


def test_rank_correlation_where_all_are_equal():
    equal, other = vector(2, 2, 2), vector(1, 2, 3)
    assert rank_correlation(equal, vector(0, 0, 0)) == 1
    assert rank_correlation(equal, other) == rank_correlation(other, equal) == 0


def test_what_differs_by_rounding_has_one_rank():
    assert rank_correlation(vector(1, 1 + 1e-12, 5), vector(2, 2, 9)) == pytest.approx(1)


def test_top_units():
    assert top(vector(0, -9, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0)) == {1, 9, 8, 7, 6}
    assert top(vector(3, -4)) == {1}
    assert top(vector(3)) == {0}
    assert overlap(vector(4, 3, 0, 0), vector(4, 0, 3, 0)) == pytest.approx(1 / 3)
    assert same_signs(vector(4, -3, 0, 0), vector(1, 1, 0, 0)) == 0.5


def test_agreement():
    one, other = [[1.0, 2, 3, 4], [1, 2, 3, 4]], [[1.0, 2, 3, 4], [2, 1, 3, 4]]
    (check,) = agreement.between({"a": one, "b": other})
    assert check.name == "a and b"
    assert check.value == pytest.approx((1 + spearmans([1, 2, 3, 4], [2, 1, 3, 4])) / 2)
    assert check.passed is True
    assert [found.passed for found in agreement.between({"a": one, "b": other, "c": [row[::-1] for row in one]})] == [True, False, False]
    assert agreement.between({"a": one}) == []


def test_the_order_of_what_does_not_matter_is_not_compared():
    (check,) = agreement.between({"a": [[9.0, 0.1, 0.2, -0.3, 0.4]], "b": [[8.0, 0.4, -0.3, 0.2, 0.1]]})
    assert check.value == pytest.approx(1)


def test_reasons_after_compression():
    before = [[1.0, -2, 3, 4]] * 3
    (kept,) = agreement.compressed(before, [[1.1, -2, 3.1, 4.2]] * 3)
    assert (kept.value, kept.passed) == (pytest.approx(1), True)
    (changed,) = agreement.compressed(before, [[4.0, 2, -3, -1]] * 3)
    assert changed.passed is False
    assert changed.details["same sign"] == 0
    assert "changed the reasons" in changed.meaning
    (nothing,) = agreement.compressed([[1.0]], [[float("nan")]])
    assert (nothing.value, nothing.passed) == (None, None)


@pytest.mark.parametrize(("deviation", "low", "high"), [(1.0, 0.88, 1.0), (0.5, 0.5, 0.8)])
def test_coverage(deviation, low, high):
    """Honest intervals of 95 % hold what repeated runs give; half of their width holds two thirds, and fails."""
    case, explainer = game(bent, 10), Orders(orders=20, wrong_deviation=deviation)
    found = [stability.measured(explainer, case, explainer.explain(case, seed), seed) for seed in range(0, 100, 10)]
    (check,) = [one for one in stability.judged([{"claims": {"random": True}, "stability": one} for one in found]) if one.name == "coverage of the intervals"]
    assert check.value is not None
    assert low < check.value <= high
    assert check.passed is (deviation == 1)


class Linear(Explainer):
    """The inputs themselves: the largest change is known."""

    name: ClassVar[str] = "linear"

    def explain(self, case: Case, seed: int) -> Attribution:
        return Attribution(case.inputs.double())


def test_sensitivity():
    case = decisions(6, background=4).case(0)
    right = sensitivity.measured(Linear(), case, Linear().explain(case, 0), 0, torch.Generator().manual_seed(0))
    scale = torch.from_numpy(np.std(torch.cat([case.background, case.inputs[None]]).numpy(), 0, ddof=1))
    most = float(0.02 * scale.norm() / case.inputs.norm())
    assert 0.5 * most < right <= most
    wrong = sensitivity.measured(InputNoise(), case, InputNoise().explain(case, 0), 0, torch.Generator().manual_seed(0))
    assert wrong > 1


def test_who_says_that_it_is_not_random_and_is_fails():
    class Sly(Orders):
        def is_random(self) -> bool:
            return False

    case = game(bent, 10)
    found = stability.measured(Sly(orders=3), case, Sly(orders=3).explain(case, 0), 0)
    assert found["repeat"] == 0
    (check,) = stability.judged([{"claims": {"random": False}, "stability": found}])
    assert check.passed is False
