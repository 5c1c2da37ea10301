"""The simple models that a neural one has to beat: scikit-learn's gradient boosting and logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

FOLDS = 5
LEAVES, TREES = (3, 8, 31), (50, 100, 200)
RATE = 0.05


class Bar(NamedTuple):
    """A simple model, trained."""

    crossed: np.ndarray
    """(training people,) the probability of default of each, by a model that has not seen them (cross-fitted)."""
    probability: np.ndarray
    """(evaluated people,) that of the others, by a model of all of the training people."""
    told: str
    """What it is."""
    model: Any
    """Fitted on all of the training people."""


def boosting(features: np.ndarray, bad: np.ndarray, others: np.ndarray) -> Bar:
    """Histogram gradient boosting. Leaves and trees are those whose cross-validated log loss is lowest: its defaults overfit small tables.

    features: (training people, features); bad: (training people,) bool; others: (evaluated people, features).
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import log_loss

    def model(leaves: int, trees: int) -> Any:
        early: Any = False  # scikit-learn's type says str
        return HistGradientBoostingClassifier(learning_rate=RATE, max_iter=trees, max_leaf_nodes=leaves, early_stopping=early, random_state=0)

    tried: dict[tuple[int, int], np.ndarray] = {(leaves, trees): np.zeros(len(bad)) for leaves in LEAVES for trees in TREES}
    for rest, held in _folds(bad):
        for leaves in LEAVES:
            fitted = model(leaves, max(TREES)).fit(features[rest], bad[rest])
            for trees, probability in enumerate(fitted.staged_predict_proba(features[held]), 1):
                if trees in TREES:
                    tried[leaves, trees][held] = probability[:, 1]
    best = min(tried, key=lambda knobs: log_loss(bad, tried[knobs]))
    fitted = model(*best).fit(features, bad)
    return Bar(
        tried[best],
        fitted.predict_proba(others)[:, 1],
        f"{best[1]} trees of at most {best[0]} leaves, learning rate {RATE}: the best of {len(tried)} by {FOLDS}-fold cross-validation",
        fitted,
    )


def logistic(features: np.ndarray, bad: np.ndarray, others: np.ndarray) -> Bar:
    """Logistic regression on standardised features, with scikit-learn's own regularisation. Shapes as in `boosting`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def model() -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))

    crossed = np.zeros(len(bad))
    for rest, held in _folds(bad):
        crossed[held] = model().fit(features[rest], bad[rest]).predict_proba(features[held])[:, 1]
    fitted = model().fit(features, bad)
    return Bar(crossed, fitted.predict_proba(others)[:, 1], "standardised features, L2 regularisation with C=1", fitted)


def _folds(bad: np.ndarray) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    """(people to train on, people to predict) of each fold, defaults dealt evenly."""
    from sklearn.model_selection import StratifiedKFold

    return list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(np.zeros((len(bad), 1)), bad))
