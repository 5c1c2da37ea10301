"""LIME: models that are linear, and ones that are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.explain.known import case, network, numbers
from trainer.errors import ConfigError
from trainer.explain.case import Attribution, Case
from trainer.explain.lime import Lime

WEIGHTS = torch.tensor([3.0, -2.0, 1.0, 0.0, 0.5, -0.25], dtype=torch.float64)


def _linear(rows: Tensor) -> Tensor:
    return rows @ WEIGHTS


def _row(margin: object = _linear) -> Case:
    background = numbers(100, 6, seed=1) * 0.5
    return case(margin, background.mean(0) + 1, background)  # type: ignore[arg-type]


def _tokens(seed: int = 0) -> Case:
    return case(lambda rows: rows.sum(-1) @ WEIGHTS, torch.ones(6, 4).double(), torch.zeros(1, 6, 4).double(), torch.arange(6)[:, None].expand(6, 4), seed)


def test_a_linear_model_of_a_row_is_found() -> None:
    found = Lime().explain(_row(), 0)
    np.testing.assert_allclose(found.values, WEIGHTS, rtol=0.01, atol=0.002)  # LIME's ridge shrinks them a little
    assert found.told["r2"] > 0.999
    assert found.base is None


def test_quartiles_give_signs_and_order() -> None:
    found = Lime(discretize=True).explain(_row(), 0)
    large = [0, 1, 2, 4, 5]
    assert found.values[large].sign().tolist() == WEIGHTS[large].sign().tolist()
    assert found.values.abs().argsort(descending=True).tolist() == WEIGHTS.abs().argsort(descending=True).tolist()
    assert 0.3 < found.told["r2"] < 0.9  # a line is not a step


def test_tokens_and_regions_of_a_linear_model_are_found() -> None:
    np.testing.assert_allclose(Lime().explain(_tokens(), 0).values, 4 * WEIGHTS, rtol=0.02, atol=0.02)
    regions = (torch.arange(4)[:, None] // 2 * 3 + torch.arange(6) // 2)[None]
    pixels = case(
        lambda rows: rows[:, 0].unflatten(1, (2, 2)).unflatten(3, (3, 2)).sum((2, 4)).flatten(1) @ WEIGHTS,
        torch.ones(1, 4, 6).double(),
        torch.zeros(1, 1, 4, 6).double(),
        regions,
    )
    np.testing.assert_allclose(Lime().explain(pixels, 0).values, 4 * WEIGHTS, rtol=0.02, atol=0.02)


def test_the_sample_is_one_of_its_neighbours() -> None:
    seen: list[Tensor] = []

    def margin(rows: Tensor) -> Tensor:
        seen.append(rows)
        return rows.flatten(1).sum(1)

    Lime(samples=20).explain(case(margin, _tokens().inputs, _tokens().background, _tokens().unit_of), 0)
    assert int((torch.cat(seen) == 1).flatten(1).all(1).sum()) == 1


def test_a_model_that_is_not_linear_is_told_by_its_r2() -> None:
    found = Lime().explain(_row(lambda rows: torch.sin(20 * rows).sum(1)), 0)
    assert found.told["r2"] < 0.3


def test_features_of_one_category_change_together() -> None:
    """Units: a number, one of three categories, a flag, a number with its square; and a number that is always there."""
    seen: list[Tensor] = []

    def margin(rows: Tensor) -> Tensor:
        seen.append(rows)
        return rows @ torch.tensor([1.0, 5.0, 0.0, -5.0, 2.0, 7.0, 0.0, 0.0]).double()

    codes = torch.arange(90) % 3
    background = torch.cat(
        [numbers(90, 1), torch.eye(3).double()[codes], (codes == 0).double()[:, None], numbers(90, 1), numbers(90, 1), numbers(90, 1) ** 2], 1
    )
    of = case(margin, torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 9.0, 2.0, 4.0]).double(), background, torch.tensor([0, 1, 1, 1, 2, -1, 3, 3]))
    values = Lime().explain(of, 0).values
    rows = torch.cat(seen)
    assert rows.shape == (5000, 8)
    assert rows[:, 1:4].sum(1).unique().tolist() == [1.0]
    assert rows[:, 4].unique().tolist() == [0.0, 1.0]
    assert rows[:, 5].unique().tolist() == [9.0]
    assert torch.equal(rows[:, 6] ** 2, rows[:, 7])
    assert rows[:, 1:4].mean(0).min() > 0.3, "each category as often as in the background"
    np.testing.assert_allclose(values, [1 - float(background[:, 0].mean()), 7.5, 2.0, 0.0], atol=0.25)  # the first of three against the mean of two


def test_constant_columns_add_nothing() -> None:
    background = torch.cat([numbers(50, 1), torch.full((50, 1), 4.0).double()], 1)
    of = case(lambda rows: rows.sum(1), torch.tensor([1.0, 4.0]).double(), background)
    for discretize in (False, True):
        found = Lime(discretize=discretize).explain(of, 0)
        assert abs(float(found.values[1])) < 1e-9
        assert float(found.values[0]) > 0.5


def _explained(kind: str, seed: int) -> Attribution:
    net = network(6)
    if kind == "tokens":
        return Lime(samples=200).explain(case(lambda rows: net(rows.sum(-1))[:, 0], _tokens().inputs, _tokens().background, _tokens().unit_of), seed)
    return Lime(samples=200, discretize=kind == "quartiles").explain(_row(lambda rows: net(rows)[:, 0]), seed)


@pytest.mark.parametrize("kind", ["row", "quartiles", "tokens"])
def test_a_second_call_finds_the_same_and_another_seed_does_not(kind: str) -> None:
    first = _explained(kind, 0)
    np.random.seed(5)
    torch.manual_seed(5)
    after = np.random.rand(), float(torch.rand(1))
    np.random.seed(5)
    torch.manual_seed(5)
    assert torch.equal(_explained(kind, 0).values, first.values)
    assert (np.random.rand(), float(torch.rand(1))) == after, "the generators of the process were moved"
    assert not torch.equal(_explained(kind, 1).values, first.values)


def test_samples_have_their_own_neighbours() -> None:
    assert not torch.equal(Lime(samples=50).explain(_tokens(0), 0).values, Lime(samples=50).explain(_tokens(1), 0).values)


def test_fewer_neighbours_than_units() -> None:
    wide = case(lambda rows: rows.sum(1), torch.ones(10_000), torch.zeros(2, 10_000))
    with pytest.raises(ConfigError, match=r"explain.lime.samples=5000: cannot fit a linear model of 10000 units; give at least 10002.*data.reduce"):
        Lime().explain(wide, 0)
    with pytest.raises(ConfigError, match="must be at least 10"):
        Lime(samples=3).validate()
