"""Shapley values by the definition, against other ways to the same values; and that efficiency alone proves nothing."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.explain.evidence.explainers import Kernel
from trainer.explain.case import Attribution, Case
from trainer.explain.evidence import truth


def game(value: Any, units: int) -> Case:
    """Whose coalitions are worth `value` of (n, units) of 0 and 1, in fp64."""
    one = torch.ones(units, dtype=torch.float64)
    return Case(value, one, torch.zeros(1, units, dtype=torch.float64), torch.arange(units), tuple(map(str, range(units))))


def bent(x: Tensor) -> Tensor:
    """Of ten numbers, with products of two and of three."""
    weights = torch.linspace(-1, 1.5, x.shape[1], dtype=torch.float64)
    return torch.tanh(x @ weights) + x[:, 0] * x[:, 3] - 2 * x[:, 1] * x[:, 5] * x[:, 8] + 0.5 * (x[:, 2:].sum(1)).square().sin()


def test_the_glove_game():
    """Two left gloves and a right one; a pair is worth 1."""
    case = game(lambda x: torch.minimum(x[:, 0] + x[:, 1], x[:, 2]), 3)
    torch.testing.assert_close(truth.shapley(case), torch.tensor([1, 1, 4], dtype=torch.float64) / 6)


def test_a_sum_gives_back_its_terms():
    weights = torch.tensor([3.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(truth.shapley(game(lambda x: x @ weights + 7, 4)), weights)


def test_one_unit_is_worth_all():
    torch.testing.assert_close(truth.shapley(game(lambda x: 5 * x[:, 0] - 2, 1)), torch.tensor([5.0], dtype=torch.float64))


def test_equal_to_the_mean_over_all_orders():
    case, found = game(lambda x: bent(torch.cat([x, x.flip(1)], 1)), 5), torch.zeros(5, dtype=torch.float64)
    orders = list(itertools.permutations(range(5)))
    for order in orders:
        present = torch.zeros(1, 5, dtype=torch.bool)
        for unit in order:
            before = case.value(present)
            present[0, unit] = True
            found[unit] += float(case.value(present) - before)
    torch.testing.assert_close(truth.shapley(case), found / len(orders))


def test_equal_to_a_weighted_regression_of_all_coalitions():
    case = game(bent, 10)
    torch.testing.assert_close(truth.shapley(case), Kernel().explain(case, 0).values)


def test_efficiency_proves_nothing():
    """shap's KernelExplainer with 60 samples of ten units: values that add up to rounding, and are wrong."""
    import shap

    case = game(lambda x: 0.1 * bent(x), 10)
    np.random.seed(0)
    explainer = shap.KernelExplainer(lambda rows: case.value(torch.from_numpy(rows > 0.5)).numpy(), np.zeros((1, 10)))
    values = torch.from_numpy(np.asarray(explainer.shap_values(np.ones((1, 10)), nsamples=60, silent=True), np.float64).reshape(-1))
    found = truth.measured(case, Attribution(values, case.none_present()))
    assert found["gap"] < 1e-15
    assert found["largest"] > 1e-2
    gap, error = truth.judged([{"claims": {"additive": True, "shapley": True}, "truth": found}])
    assert gap.passed is True
    assert "proves nothing alone" in gap.meaning
    assert error.passed is False
    assert error.value == pytest.approx(found["error"])


def test_figures():
    case = game(lambda x: x @ torch.tensor([3.0, 4.0], dtype=torch.float64) + 1, 2)
    found = truth.measured(case, Attribution(torch.tensor([3.0, 4.5], dtype=torch.float64), 1.0))
    assert found == {"gap": 0.5, "relative_gap": 0.5 / 7.5, "shapley": [3.0, 4.0], "largest": 0.5, "error": 0.1}


def test_more_units_have_no_truth_and_a_gap():
    case = game(lambda x: x.sum(1), 11)
    found = truth.measured(case, Attribution(torch.full((11,), 0.9, dtype=torch.float64)))
    assert found["shapley"] is None
    gap, error = truth.judged([{"claims": {"additive": True, "shapley": True}, "truth": found}])
    assert gap.passed is False
    assert error.value is error.passed is None
    assert "more than 10" in error.meaning


def test_who_claims_nothing_is_told_and_not_judged():
    found = truth.measured(game(lambda x: x.sum(1), 3), Attribution(torch.tensor([5.0, 5.0, 5.0], dtype=torch.float64)))
    checks = truth.judged([{"claims": {"additive": False, "shapley": False}, "truth": found}])
    assert [check.passed for check in checks] == [None, None]
    assert checks[1].value == pytest.approx(4)


def test_a_model_that_ignores_its_inputs():
    """But for rounding: its values are zeros, and others are wrong."""
    case = game(lambda x: 5 + 1e-7 * x[:, 0], 3)
    for values, passed in (([0.0, 0.0, 0.0], True), ([0.1, -0.1, 0.0], False)):
        found = truth.measured(case, Attribution(torch.tensor(values, dtype=torch.float64)))
        assert truth.judged([{"claims": {"additive": True, "shapley": True}, "truth": found}])[1].passed is passed


def test_zeros_for_a_decision_that_moves_leave_all_of_it_unaccounted_for():
    found = truth.measured(game(lambda x: x.sum(1), 3), Attribution(torch.zeros(3, dtype=torch.float64)))
    assert found["relative_gap"] == found["error"] == 1
