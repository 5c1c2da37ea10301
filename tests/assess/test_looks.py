"""What gradient boosting is said to look at."""

import numpy as np
import pytest

from trainer.assess.bars import boosting
from trainer.assess.looks import looked_at
from trainer.data.table_samples import Feature


def test_columns_are_as_important_as_they_are():
    draw = np.random.default_rng(0)
    codes = draw.integers(0, 3, 600)
    features = np.stack([draw.normal(size=600), *(codes == value for value in range(3)), draw.normal(size=600)], 1)
    bad = 2 * features[:, 0] + 3 * (codes == 1) - 1 > 0
    bar = boosting(features[:400], bad[:400], features[400:])
    columns = [Feature("debt"), *(Feature("region", name) for name in "abc"), Feature("house")]
    found = looked_at(bar.model, features[400:], features[:400], columns)
    assert list(found) == ["debt", "region", "house"]
    assert found["debt"] > 10 * found["house"]
    assert found["region"] > 5 * found["house"]


def test_the_values_are_those_of_the_log_odds():
    features = np.array([[0.0], [1.0]]).repeat(50, 0)
    bar = boosting(features, np.array([False] * 45 + [True] * 5 + [True] * 45 + [False] * 5), features)
    low, high = bar.model.decision_function([[0.0], [1.0]])
    assert looked_at(bar.model, features, features, [Feature("x")])["x"] == pytest.approx((high - low) / 2)  # each half against the mean of both
