"""SHAP: the truth of all coalitions, by every way to compute or to estimate it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.explain.known import as_function, case, every_order, game, network, numbers, of_network, over_orders, shapley
from trainer.errors import ConfigError
from trainer.explain.case import Attribution
from trainer.explain.shap import Algorithm, Shap

SAMPLED = [Algorithm.permutation, Algorithm.kernel]
ON_COALITIONS = [Algorithm.auto, Algorithm.exact, *SAMPLED, Algorithm.partition]


@pytest.mark.parametrize("kind", [Algorithm.auto, Algorithm.exact, Algorithm.kernel])
def test_all_coalitions_give_the_truth(kind: Algorithm) -> None:
    of, truth = of_network()
    found = Shap(kind=kind).explain(of, 0)
    np.testing.assert_allclose(found.values, truth, atol=1e-9)
    assert np.abs(truth).max() > 0.1
    assert found.base == pytest.approx(of.none_present(), abs=1e-12)
    assert found.deviation is None
    assert found.told["evaluations"] == 2**6


def test_brute_force_is_right() -> None:
    of, truth = of_network(4)
    value = game(as_function(of.margin), of.inputs.numpy(), of.background.numpy(), range(4))
    np.testing.assert_allclose(over_orders(value, every_order(4)), truth, atol=1e-12)


@pytest.mark.parametrize("kind", ON_COALITIONS)
def test_units_of_several_features_and_features_of_none(kind: Algorithm) -> None:
    net, unit_of = network(8), [0, 1, 1, -1, 2, 3, 3, 3]
    of = case(lambda rows: net(rows)[:, 0], numbers(8, seed=1), numbers(7, 8, seed=2), torch.tensor(unit_of))
    truth = shapley(game(as_function(of.margin), of.inputs.numpy(), of.background.numpy(), unit_of), 4)
    found = Shap(kind=kind, evaluations=500).explain(of, 0)
    if kind in (Algorithm.permutation, Algorithm.partition):
        np.testing.assert_allclose(found.values.sum(), of.all_present() - of.none_present(), atol=1e-12)
        assert np.abs(found.values.numpy() - truth).max() < 0.2 * np.abs(truth).max()
    else:
        np.testing.assert_allclose(found.values, truth, atol=1e-9)


@pytest.mark.parametrize("kind", ON_COALITIONS)
def test_a_linear_model_is_explained_exactly(kind: Algorithm) -> None:
    weights, inputs, background = numbers(12), numbers(12, seed=1), numbers(2, 12, seed=2)
    found = Shap(kind=kind, evaluations=4096).explain(case(lambda rows: rows @ weights + 3, inputs, background), 0)
    np.testing.assert_allclose(found.values, weights * (inputs - background.mean(0)), atol=1e-9)
    assert found.base == pytest.approx(float(background.mean(0) @ weights) + 3)


@pytest.mark.parametrize("kind", ON_COALITIONS)
def test_symmetric_units_share_and_a_dummy_has_nothing(kind: Algorithm) -> None:
    found = Shap(kind=kind).explain(case(lambda rows: 6 * rows[:, 0] * rows[:, 1] + rows[:, 3], torch.ones(4).double(), torch.zeros(1, 4).double()), 0)
    np.testing.assert_allclose(found.values, [3, 3, 0, 1], atol=1e-9)


def test_another_background_gives_other_values() -> None:
    of, truth = of_network()
    other = case(of.margin, of.inputs, of.background + 1)
    wanted = shapley(game(as_function(of.margin), of.inputs.numpy(), other.background.numpy(), range(6)), 6)
    np.testing.assert_allclose(Shap().explain(other, 0).values, wanted, atol=1e-9)
    assert np.abs(wanted - truth).max() > 0.1


def test_what_is_the_same_in_all_of_the_background_is_no_player() -> None:
    """10,000 columns of which 5 differ are a game of 5."""
    weights, background = numbers(10_000), numbers(1, 10_000, seed=1).repeat(3, 1)
    inputs = background[0].clone()
    inputs[[3, 70, 500, 6000, 9999]] += 1
    for kind in ON_COALITIONS:
        found = Shap(kind=kind, evaluations=64).explain(case(lambda rows: rows @ weights, inputs, background), 0)
        np.testing.assert_allclose(found.values, weights * (inputs - background[0]), atol=1e-9)
    same = Shap().explain(case(lambda rows: rows @ weights, background[0], background), 0)
    assert same.values.abs().max() == 0


def test_one_unit_adds_all() -> None:
    for kind in ON_COALITIONS:
        found = Shap(kind=kind).explain(case(lambda rows: rows[:, 0] ** 2, torch.tensor([3.0]), torch.tensor([[1.0], [2.0]])), 0)
        assert found.values.tolist() == [6.5]
        assert found.base == 2.5


@pytest.mark.parametrize("kind", SAMPLED)
def test_sampled_values_come_with_their_errors_and_converge(kind: Algorithm) -> None:
    of, truth = of_network(8)
    few = Shap(kind=kind, evaluations=200).explain(of, 0)
    assert few.deviation is not None
    assert few.told["evaluations"] <= 200
    assert float(few.values.sum()) == pytest.approx(of.all_present() - of.none_present(), abs=1e-9)
    assert few.deviation.min() > 0
    draws = [Shap(kind=kind, evaluations=200).explain(of, seed) for seed in range(40)]
    errors = np.array([draw.values.numpy() - truth for draw in draws])
    told = np.array([draw.deviation.numpy() for draw in draws])  # type: ignore[union-attr]
    np.testing.assert_allclose(np.sqrt((errors**2).mean(0)), np.sqrt((told**2).mean(0)), rtol=0.4)  # 40 draws tell a deviation to 11 %, twice
    if kind is Algorithm.permutation:
        many = Shap(kind=kind, evaluations=20_000).explain(of, 0)
        assert np.abs(many.values.numpy() - truth).max() < np.abs(errors).max() / 5


def test_expected_gradients_of_a_quadratic() -> None:
    """Closed form of the way from z to x: (x - z) (A (x + z)), the mean over the background."""
    root = numbers(5, 5)
    matrix, inputs, background = root + root.T, numbers(5, seed=1), numbers(6, 5, seed=2)
    of = case(lambda rows: ((rows @ matrix) * rows).sum(1), inputs, background)
    truth = ((inputs - background) * ((inputs + background) @ matrix)).mean(0)
    found = Shap(kind=Algorithm.gradient, evaluations=20_000).explain(of, 0)
    assert found.deviation is not None
    assert ((found.values - truth).abs() / found.deviation).max() < 4
    assert found.deviation.max() < 0.05 * truth.abs().max()
    assert float(found.values.sum()) - found.told["gap"] == pytest.approx(float(truth.sum()))
    assert abs(found.told["gap"]) < 0.1 * truth.abs().max()


def test_partition_gives_owen_values() -> None:
    """Four tokens, halved and halved again: the orders in which each half comes as a whole."""
    net = network(8)
    of = case(lambda rows: net(rows.flatten(1))[:, 0], numbers(4, 2, seed=1), numbers(3, 4, 2, seed=2), torch.arange(4)[:, None].expand(4, 2))
    value = game(as_function(lambda rows: net(rows)[:, 0]), of.inputs.flatten().numpy(), of.background.flatten(1).numpy(), [0, 0, 1, 1, 2, 2, 3, 3])
    orders = [order for order in every_order(4) if set(order[:2]) in ({0, 1}, {2, 3})]
    found = Shap(kind=Algorithm.partition).explain(of, 0)
    np.testing.assert_allclose(found.values, over_orders(value, orders), atol=1e-9)
    assert np.abs(found.values - shapley(value, 4)).max() > 1e-3


@pytest.mark.parametrize("evaluations", [4, 9, 64])
def test_partition_adds_up_however_few_the_evaluations(evaluations: int) -> None:
    pixels = numbers(1, 16, 16, seed=1)
    regions = (torch.arange(16)[:, None] // 4 * 4 + torch.arange(16) // 4)[None]
    net = network(256)
    of = case(lambda rows: net(rows.flatten(1))[:, 0], pixels, torch.zeros(1, 1, 16, 16).double(), regions)
    found = Shap(kind=Algorithm.partition, evaluations=evaluations).explain(of, 0)
    assert float(found.values.sum()) == pytest.approx(of.all_present() - of.none_present(), abs=1e-9)
    assert found.told["evaluations"] <= evaluations + 1


def test_ten_thousand_columns_within_the_budget_or_not_at_all() -> None:
    weights = numbers(10_000)
    of = case(lambda rows: rows @ weights, numbers(10_000, seed=1), torch.zeros(1, 10_000).double())
    for kind in (Algorithm.auto, Algorithm.exact, *SAMPLED):
        with pytest.raises(ConfigError, match=r"evaluations=1024: 10000 units .* take at least .* kind=partition"):
            Shap(kind=kind).explain(of, 0)
    coarse = Shap(kind=Algorithm.partition, evaluations=32).explain(of, 0)
    assert float(coarse.values.sum()) == pytest.approx(of.all_present(), rel=1e-9)
    found = Shap(kind=Algorithm.gradient, evaluations=16).explain(of, 0)
    np.testing.assert_allclose(found.values, weights * of.inputs, rtol=1e-9)


def test_too_few_evaluations() -> None:
    of, _ = of_network()
    for kind, least in ((Algorithm.exact, 64), (Algorithm.permutation, 26), (Algorithm.auto, 26)):
        with pytest.raises(ConfigError, match=f"evaluations=20: 6 units .* take at least {least} with"):
            Shap(kind=kind, evaluations=20).explain(of, 0)
        Shap(kind=kind, evaluations=least).explain(of, 0)
    with pytest.raises(ConfigError, match="must be at least 4"):
        Shap(evaluations=3).validate()


def test_trees_are_for_trees() -> None:
    with pytest.raises(ConfigError, match=r"kind=tree.*take kind=auto"):
        Shap(kind=Algorithm.tree).validate()


def test_a_model_without_gradients_is_named() -> None:
    weights = torch.ones(3)
    for margin in (lambda rows: (rows @ weights).round().long().float(), lambda rows: rows.detach() @ weights):
        with pytest.raises(ConfigError, match=r"explain.shap.kind=gradient: needs gradients, which this model does not give"):
            Shap(kind=Algorithm.gradient).explain(case(margin, torch.ones(3), torch.zeros(1, 3)), 0)


def _explained(kind: Algorithm, seed: int, sample: int = 5) -> Attribution:
    net = network(8)
    of = case(lambda rows: net(rows)[:, 0], numbers(8, seed=1), numbers(4, 8, seed=2), seed=sample)
    return Shap(kind=kind, evaluations=150).explain(of, seed)


@pytest.mark.parametrize("kind", [*SAMPLED, Algorithm.gradient])
def test_a_seed_decides_what_is_drawn(kind: Algorithm) -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    first = _explained(kind, 0)
    after = torch.rand(1), np.random.rand()
    torch.manual_seed(7)
    np.random.seed(7)
    assert (torch.rand(1), np.random.rand()) == after, "the generators of the process were moved"
    assert torch.equal(_explained(kind, 0).values, first.values)
    assert not torch.equal(_explained(kind, 1).values, first.values)
    assert not torch.equal(_explained(kind, 0, sample=6).values, first.values)
    assert Shap(kind=kind).is_random()
