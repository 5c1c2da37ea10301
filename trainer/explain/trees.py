"""Shapley values of ensembles of trees, such as the gradient boosting that a network is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.errors import ConfigError, RunError

ROUNDING = 1e-6  # of the margins, relatively: thresholds are compared and leaves summed in another order


def tree_attributions(
    estimator: Any, rows: np.ndarray, background: np.ndarray, unit_of: Sequence[int] | np.ndarray, units: Sequence[str]
) -> tuple[np.ndarray, float]:
    """Exact interventional Shapley values by shap's TreeExplainer (Lundberg et al., 2020, doi:10.1038/s42256-019-0138-9).

    Args:
        estimator: fitted gradient boosting of scikit-learn, of two classes or for numbers (GradientBoosting... or HistGradientBoosting...),
            or another ensemble of trees for numbers.
        rows: (n, features) what is explained, as the estimator takes it.
        background: (b, features) what absent units are taken from.
        unit_of: (features,) the number of the unit that each feature belongs to.
        units: their names.

    Returns:
        (n, units) float64, how much each unit adds to the margin (the log-odds of the second class, or the number that is predicted),
        and what they start from: the mean margin of the background.

    Raises:
        ConfigError: an estimator that has no margin, more than two classes, or splits by category, which shap misreads.
        RunError: what was found does not add up to the estimator's own margins.
    """
    import shap
    from sklearn.base import is_classifier

    name = type(estimator).__name__
    if is_classifier(estimator) and not hasattr(estimator, "decision_function"):
        raise ConfigError(f"{name}: averages probabilities and has no margin to explain; take gradient boosting")
    if is_classifier(estimator) and len(estimator.classes_) > 2:
        raise ConfigError(f"{name}: of {len(estimator.classes_)} classes; trees of two classes are explained")
    by_category = getattr(estimator, "is_categorical_", None)
    if by_category is not None and np.any(by_category):
        raise ConfigError(f"{name}: splits by category, which the library shap does not read; fit it on one-hot features (data.encoding=onehot)")
    rows, background = np.asarray(rows, np.float64), np.asarray(background, np.float64)
    masker = shap.maskers.Independent(background, max_samples=len(background))  # the default draws 100 rows
    explainer = shap.TreeExplainer(estimator, masker, model_output="raw", feature_perturbation="interventional")
    values = np.asarray(explainer.shap_values(rows, check_additivity=False))
    margin = estimator.decision_function if is_classifier(estimator) else estimator.predict
    base = float(margin(background).mean())
    found = np.zeros((len(rows), len(units)))
    np.add.at(found.T, np.asarray(unit_of), values.T)
    wanted = margin(rows)
    worst = float(np.abs(found.sum(1) + base - wanted).max(initial=0))
    if not worst <= ROUNDING * max(1.0, float(np.abs(wanted).max(initial=0))):
        raise RunError(f"{name}: the Shapley values of its trees miss its margins by up to {worst:.3g}; the library shap does not read this estimator well")
    return found, base
