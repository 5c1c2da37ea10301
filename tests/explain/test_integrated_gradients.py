"""Integrated gradients against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.explain.known import case, numbers, of_network
from trainer.errors import ConfigError
from trainer.explain.integrated_gradients import IntegratedGradients


def test_a_linear_model() -> None:
    weights, inputs, background = numbers(5), numbers(5, seed=1), numbers(4, 5, seed=2)
    found = IntegratedGradients().explain(case(lambda rows: rows @ weights + 2, inputs, background), 0)
    np.testing.assert_allclose(found.values, weights * (inputs - background.mean(0)), atol=1e-12)
    assert found.base == pytest.approx(float(background.mean(0) @ weights) + 2)


def test_a_quadratic_and_units_of_several_features() -> None:
    root = numbers(5, 5)
    matrix, inputs, background = root + root.T, numbers(5, seed=1), numbers(4, 5, seed=2)
    of = case(lambda rows: ((rows @ matrix) * rows).sum(1), inputs, background, torch.tensor([0, 1, 1, -1, 2]))
    each = ((inputs - background) * ((inputs + background) @ matrix)).mean(0)
    np.testing.assert_allclose(IntegratedGradients(steps=2).explain(of, 0).values, [each[0], each[1] + each[2], each[4]], atol=1e-10)


def test_values_add_up() -> None:
    of, truth = of_network()
    found = IntegratedGradients().explain(of, 0)
    assert float(found.values.sum()) + found.base == pytest.approx(of.all_present(), abs=1e-4)  # type: ignore[operator]
    coarse = IntegratedGradients(steps=1).explain(of, 0)
    assert abs(float(coarse.values.sum()) + coarse.base - of.all_present()) > 1e-2, "the steps are used"  # type: ignore[operator]
    assert np.abs(found.values - truth).max() > 1e-3, "they are no Shapley values"


def test_a_background_of_more_pixels_than_fit_at_once() -> None:
    pixels, background = torch.ones(3, 300, 300), torch.zeros(70, 3, 300, 300)
    of = case(lambda rows: rows.flatten(1).sum(1), pixels, background, torch.zeros(3, 300, 300, dtype=torch.int64))
    assert of.at_once() < 70
    assert float(IntegratedGradients(steps=1).explain(of, 0).values) == pytest.approx(270_000)


def test_a_model_without_gradients_is_named() -> None:
    with pytest.raises(ConfigError, match=r"explain=integrated_gradients: needs gradients, which this model does not give \(.*\); take shap"):
        IntegratedGradients().explain(case(lambda rows: rows.detach().sum(1), torch.ones(3), torch.zeros(1, 3)), 0)
