"""The simple models are scikit-learn's, and what thresholds are chosen on are predictions for people that they have not seen."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trainer.assess import bars

FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)


@pytest.fixture(scope="module")
def people():
    draw = np.random.default_rng(0)
    features = draw.normal(size=(240, 3))
    return features, draw.random(240) < 1 / (1 + np.exp(-features[:, 0] * features[:, 1])), draw.normal(size=(20, 3))


def test_logistic_regression(people):
    features, bad, others = people
    found = bars.logistic(features, bad, others)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    np.testing.assert_allclose(found.crossed, cross_val_predict(model, features, bad, cv=FOLDS, method="predict_proba")[:, 1], rtol=1e-9)
    np.testing.assert_allclose(found.probability, model.fit(features, bad).predict_proba(others)[:, 1], rtol=1e-9)


def test_boosting_is_the_best_of_those_tried(people, monkeypatch):
    monkeypatch.setattr(bars, "LEAVES", (3, 8))
    monkeypatch.setattr(bars, "TREES", (10, 60))
    features, bad, others = people
    found = bars.boosting(features, bad, others)
    crossed = {}
    for leaves in bars.LEAVES:
        for trees in bars.TREES:
            model = HistGradientBoostingClassifier(learning_rate=bars.RATE, max_iter=trees, max_leaf_nodes=leaves, early_stopping=False, random_state=0)
            crossed[leaves, trees] = cross_val_predict(model, features, bad, cv=FOLDS, method="predict_proba")[:, 1], model
    best = min(crossed, key=lambda knobs: log_loss(bad, crossed[knobs][0]))
    assert found.told.startswith(f"{best[1]} trees of at most {best[0]} leaves")
    expected, model = crossed[best]
    np.testing.assert_allclose(found.crossed, expected, rtol=1e-9)
    np.testing.assert_allclose(found.probability, model.fit(features, bad).predict_proba(others)[:, 1], rtol=1e-9)
