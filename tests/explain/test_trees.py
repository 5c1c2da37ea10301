"""Trees against brute force over coalitions, which asks the estimator itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import (
    AdaBoostRegressor,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression

from tests.explain.known import game, shapley
from trainer.errors import ConfigError, RunError
from trainer.explain.trees import tree_attributions

UNITS = ("a", "b", "c", "d")
UNIT_OF = [0, 1, 2, 2, 3, 2]  # c is of three features


def _table(missing: bool = False) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    rows = random.normal(size=(300, 6))
    labels = (rows[:, 0] * rows[:, 1] + rows[:, 2] + rows[:, 3] * rows[:, 4] > 0).astype(int)
    if missing:
        rows[random.random(rows.shape) < 0.2] = np.nan
    return rows, labels


ESTIMATORS = [
    HistGradientBoostingClassifier(max_iter=15, max_leaf_nodes=12, min_samples_leaf=3, random_state=0),
    HistGradientBoostingRegressor(max_iter=15, random_state=0),
    GradientBoostingClassifier(n_estimators=12, max_depth=5, random_state=0),
    GradientBoostingRegressor(n_estimators=12, random_state=0),
    RandomForestRegressor(n_estimators=6, max_depth=8, random_state=0),
    ExtraTreesRegressor(n_estimators=6, max_depth=8, random_state=0),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda one: type(one).__name__)
def test_the_truth_of_all_coalitions(estimator: Any) -> None:
    takes_missing = "Hist" in type(estimator).__name__
    rows, labels = _table(takes_missing)
    estimator.fit(rows, labels)
    margin = getattr(estimator, "decision_function", estimator.predict)
    background = rows[100:130]
    found, base = tree_attributions(estimator, rows[:3], background, UNIT_OF, UNITS)
    truth = np.array([shapley(game(margin, row, background, UNIT_OF), 4) for row in rows[:3]])
    np.testing.assert_allclose(found, truth, atol=1e-7)
    assert np.abs(truth).max() > 0.05
    assert base == pytest.approx(margin(background).mean())


def test_the_library_shap_agrees_where_its_trees_are_right() -> None:
    import shap

    rows, labels = _table()
    estimator = GradientBoostingClassifier(n_estimators=20, max_depth=4, random_state=0).fit(rows, labels)
    masker = shap.maskers.Independent(rows[:150], max_samples=150)
    theirs = shap.TreeExplainer(estimator, masker, feature_perturbation="interventional").shap_values(rows)
    found, _ = tree_attributions(estimator, rows, rows[:150], range(6), "abcdef")
    np.testing.assert_allclose(found, theirs, atol=1e-5)


def test_a_column_that_no_tree_splits_on_adds_nothing() -> None:
    rows, labels = _table()
    estimator = GradientBoostingClassifier(n_estimators=1, max_depth=1, random_state=0).fit(rows, labels)
    found, _ = tree_attributions(estimator, rows[:20], rows[50:60], range(6), "abcdef")
    assert (np.abs(found).sum(0) > 0).sum() == 1


def test_what_has_no_margin_is_named() -> None:
    rows, labels = _table()
    codes = np.column_stack([rows[:, 0], np.arange(300) % 4])
    refused = [
        (RandomForestClassifier(n_estimators=2).fit(rows, labels), rows, "RandomForestClassifier: averages probabilities"),
        (GradientBoostingClassifier(n_estimators=2).fit(rows, np.arange(300) % 3), rows, "tells 3 classes apart"),
        (HistGradientBoostingRegressor(max_iter=3, categorical_features=[1]).fit(codes, codes[:, 1] % 2), codes, "splits by category"),
        (AdaBoostRegressor(n_estimators=2).fit(rows, labels), rows, "AdaBoostRegressor: is no ensemble of trees"),
        (LinearRegression().fit(rows, labels), rows, "LinearRegression: is no ensemble of trees"),
    ]
    for estimator, table, message in refused:
        with pytest.raises(ConfigError, match=message):
            tree_attributions(estimator, table[:2], table[:9], range(table.shape[1]), table.shape[1] * "x")


def test_values_that_miss_the_margin_are_not_given() -> None:
    """Boosting that starts from a model of the features, which the trees do not tell."""
    rows, labels = _table()
    estimator = GradientBoostingRegressor(n_estimators=3, init=LinearRegression()).fit(rows, labels)
    with pytest.raises(RunError, match="GradientBoostingRegressor: the Shapley values of its trees miss its margins by up to"):
        tree_attributions(estimator, rows[:5], rows[:9], range(6), "abcdef")
