"""Shapley values of ensembles of trees, such as the gradient boosting that a network is compared with.

Not by shap's TreeExplainer: in shap 0.51.0 its interventional values of scikit-learn's histogram-based boosting were seen to miss the margins
(by up to 0.96 for 500 rows without missing values), and it knows features only, not the units that they make up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import factorial
from typing import Any

import numpy as np

from trainer.errors import ConfigError, RunError

ROUNDING = 1e-6  # of the margins, relatively: leaves are summed in another order


@dataclass(frozen=True)
class _Tree:
    """Nodes of a tree, the root first."""

    left: np.ndarray
    """(nodes,) numbers of the children; of a leaf below 0, or any."""
    right: np.ndarray
    leaf: np.ndarray
    """(nodes,) bool."""
    feature: np.ndarray
    threshold: np.ndarray
    missing_left: np.ndarray
    """(nodes,) bool: where NaN goes."""
    value: np.ndarray
    """(nodes,) of the leaves: what they add to the margin."""


@dataclass(frozen=True)
class _Path:
    """From the root to a node: for each unit that splits on the way, which samples' values of it all those splits let through."""

    units: tuple[int, ...] = ()
    rows: tuple[np.ndarray, ...] = ()
    """Of each unit (n,) bool."""
    background: tuple[np.ndarray, ...] = ()
    """Of each unit (b,) bool."""

    def through(self, unit: int, rows: np.ndarray, background: np.ndarray) -> _Path:
        if unit not in self.units:
            return _Path((*self.units, unit), (*self.rows, rows), (*self.background, background))
        at = self.units.index(unit)
        both = [[each & new if k == at else each for k, each in enumerate(old)] for old, new in ((self.rows, rows), (self.background, background))]
        return replace(self, rows=tuple(both[0]), background=tuple(both[1]))


def tree_attributions(
    estimator: Any, rows: np.ndarray, background: np.ndarray, unit_of: Sequence[int] | np.ndarray, units: Sequence[str]
) -> tuple[np.ndarray, float]:
    """Exact Shapley values of the same game that `Case.value` is, of an ensemble of trees: each leaf is a game of its own, with a closed form.

    Interventional TreeSHAP (Lundberg et al., 2020, doi:10.1038/s42256-019-0138-9), with units as players.

    Args:
        estimator: fitted gradient boosting of scikit-learn, of two classes or for numbers (GradientBoosting... or HistGradientBoosting...),
            or a forest for numbers.
        rows: (n, features) what is explained, as the estimator takes it; NaN where it takes that.
        background: (b, features) what absent units are taken from.
        unit_of: (features,) the number of the unit that each feature belongs to.
        units: their names.

    Returns:
        (n, units) float64, how much each unit adds to the margin (the log-odds of the second class, or the number that is predicted),
        and what they start from: the mean margin of the background.

    Raises:
        ConfigError: an estimator that is no such ensemble, has no margin, or splits by category.
        RunError: what was found does not add up to the estimator's own margins.
    """
    from sklearn.base import is_classifier

    name = type(estimator).__name__
    if is_classifier(estimator) and not hasattr(estimator, "decision_function"):
        raise ConfigError(f"{name}: averages probabilities and has no margin to explain; take gradient boosting")
    if is_classifier(estimator) and len(estimator.classes_) > 2:
        raise ConfigError(f"{name}: tells {len(estimator.classes_)} classes apart; trees of two classes are explained")
    margin = estimator.decision_function if is_classifier(estimator) else estimator.predict
    wanted, base = margin(rows), float(margin(background).mean())
    histogram = hasattr(estimator, "_predictors")
    dtype = np.float64 if histogram else np.float32  # in which the estimator compares
    rows, background = np.asarray(rows, dtype), np.asarray(background, dtype)
    found = np.zeros((len(rows), len(units)))
    for tree in _of_histograms(estimator) if histogram else _of_trees(estimator):
        _add(tree, 0, _Path(), rows, background, np.asarray(unit_of), found)
    worst = float(np.abs(found.sum(1) + base - wanted).max(initial=0))
    if not worst <= ROUNDING * max(1.0, float(np.abs(wanted).max(initial=0))):
        raise RunError(f"{name}: the Shapley values of its trees miss its margins by up to {worst:.3g}")
    return found, base


def _add(tree: _Tree, node: int, path: _Path, rows: np.ndarray, background: np.ndarray, unit_of: np.ndarray, found: np.ndarray) -> None:
    """Add to `found` (n, units) the Shapley values of the leaves below `node`."""
    if tree.leaf[node]:
        _add_leaf(float(tree.value[node]), path, found)
        return
    feature = tree.feature[node]
    left = [np.where(np.isnan(values), tree.missing_left[node], values <= tree.threshold[node]) for values in (rows[:, feature], background[:, feature])]
    for child, (ours, theirs) in ((tree.left[node], left), (tree.right[node], [~each for each in left])):
        _add(tree, int(child), path.through(int(unit_of[feature]), ours, theirs), rows, background, unit_of, found)


def _add_leaf(value: float, path: _Path, found: np.ndarray) -> None:
    """A leaf is reached by a coalition if all units come through that are taken from the sample, and from the background, respectively.

    Of a sample and one row of the background: units that come through only with the sample's values must be present, a of them; those that
    come through only with the background's must be absent, b of them. If there is no other, each of the first adds value (a-1)! b! / (a+b)!,
    each of the second takes value a! (b-1)! / (a+b)!. Samples of one pattern are the same, and so are rows of the background.
    """
    if not path.units:
        return
    bits = 1 << np.arange(len(path.units))
    ours, which = np.unique(bits @ np.stack(path.rows), return_inverse=True)
    theirs, counts = np.unique(bits @ np.stack(path.background), return_counts=True)
    first = (ours[:, None, None] & bits) > 0  # (patterns, 1, units of the path)
    second = (theirs[None, :, None] & bits) > 0
    needed, barred = first & ~second, second & ~first
    a, b = needed.sum(-1), barred.sum(-1)
    share = value * (first | second).all(-1) * counts / counts.sum()
    factorials = np.array([float(factorial(k)) for k in range(len(bits) + 1)])
    of_needed = share * factorials[np.maximum(a - 1, 0)] * factorials[b] / factorials[a + b]
    of_barred = share * factorials[a] * factorials[np.maximum(b - 1, 0)] / factorials[a + b]
    added = (needed * of_needed[..., None] - barred * of_barred[..., None]).sum(1)
    found[:, path.units] += added[which]


def _of_histograms(estimator: Any) -> Iterator[_Tree]:
    for (predictor,) in estimator._predictors:
        nodes = predictor.nodes
        if nodes["is_categorical"].any():
            raise ConfigError(f"{type(estimator).__name__}: splits by category, which is not explained; fit it on one-hot features (data.encoding=onehot)")
        leaf, missing_left = nodes["is_leaf"].astype(bool), nodes["missing_go_to_left"].astype(bool)
        yield _Tree(nodes["left"], nodes["right"], leaf, nodes["feature_idx"], nodes["num_threshold"], missing_left, nodes["value"])


def _of_trees(estimator: Any) -> Iterator[_Tree]:
    from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingClassifier, GradientBoostingRegressor, RandomForestRegressor

    if isinstance(estimator, GradientBoostingClassifier | GradientBoostingRegressor):
        members, weight = estimator.estimators_[:, 0], estimator.learning_rate
    elif isinstance(estimator, RandomForestRegressor | ExtraTreesRegressor):
        members, weight = estimator.estimators_, 1 / len(estimator.estimators_)
    else:
        raise ConfigError(f"{type(estimator).__name__}: is no ensemble of trees that is explained here; take gradient boosting of scikit-learn")
    for member in members:
        tree = member.tree_
        leaf = tree.children_left < 0
        missing_left = tree.missing_go_to_left.astype(bool)
        yield _Tree(tree.children_left, tree.children_right, leaf, tree.feature, tree.threshold, missing_left, tree.value[:, 0, 0] * weight)
