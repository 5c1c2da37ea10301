"""The game of a decision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.explain.known import as_function, case, game, network, numbers
from trainer.errors import ConfigError, RunError
from trainer.explain.base import Explainer
from trainer.explain.integrated_gradients import IntegratedGradients
from trainer.explain.lime import Lime
from trainer.explain.shap import Algorithm, Shap


def test_the_value_of_each_coalition() -> None:
    net, unit_of = network(5), [0, 1, 1, -1, 2]
    of = case(lambda rows: net(rows)[:, 0], numbers(5, seed=1), numbers(4, 5, seed=2), torch.tensor(unit_of))
    wanted = game(as_function(of.margin), of.inputs.numpy(), of.background.numpy(), unit_of)
    coalitions = [[unit for unit in range(3) if number >> unit & 1] for number in range(8)]
    present = torch.tensor([[unit in coalition for unit in range(3)] for coalition in coalitions])
    np.testing.assert_allclose(of.value(present), [wanted(frozenset(coalition)) for coalition in coalitions], atol=1e-12)
    assert of.none_present() == pytest.approx(wanted(frozenset()))
    assert of.all_present() == pytest.approx(wanted(frozenset({0, 1, 2})))


def test_sums_of_each_unit_keep_the_dimensions_before() -> None:
    of = case(lambda rows: rows.flatten(1).sum(1), numbers(2, 3), numbers(1, 2, 3), torch.tensor([[0, 1, -1], [1, 1, 2]]))
    each = torch.arange(12.0).reshape(2, 2, 3)
    assert of.per_unit(each[0]).tolist() == [0, 1 + 3 + 4, 5]
    assert of.per_unit(each).tolist() == [[0, 8, 5], [6, 7 + 9 + 10, 11]]


def test_gradients_are_checked() -> None:
    weights = torch.ones(3, requires_grad=True)
    row = torch.ones(3), torch.zeros(1, 3)
    case(lambda rows: rows.sign() @ weights, *row).check_gradients("explain=x")  # they are all 0, but they are there
    with torch.no_grad():
        case(lambda rows: rows @ weights, *row).check_gradients("explain=x")
    for margin in (lambda rows: rows.detach() @ weights, lambda rows: rows.argmax(1).float(), lambda rows: weights.sum().expand(len(rows))):
        with pytest.raises(ConfigError, match=r"^explain=x: needs gradients"):
            case(margin, *row).check_gradients("explain=x")


@pytest.mark.parametrize("explainer", [Shap(kind=Algorithm.kernel), Shap(kind=Algorithm.gradient), Lime(), Lime(discretize=True), IntegratedGradients()])
def test_a_model_that_gives_nan_or_infinity_is_told(explainer: Explainer) -> None:
    background = numbers(9, 3).abs()
    for margin, word in ((lambda rows: (rows.sum(1) - 2).log(), "NaN"), (lambda rows: (rows.sum(1) * 400).exp(), "infinite")):
        with pytest.raises(RunError, match=f"^sample 7: the model's margin, or its gradient, is (NaN|{word}) for a mixture"):
            explainer.explain(case(margin, torch.full((3,), 5.0).double(), background, seed=7), 0)


def test_a_sample_whose_own_margin_is_nan() -> None:
    of = case(lambda rows: rows.sum(1).log(), torch.full((3,), -1.0), torch.ones(1, 3))
    assert of.none_present() == pytest.approx(np.log(3))
    with pytest.raises(RunError, match=r"sample 0: .* NaN"):
        of.all_present()
