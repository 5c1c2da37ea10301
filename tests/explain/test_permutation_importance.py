"""Permutation importance against closed forms and scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainer.data.arrays import ArraySamples
from trainer.data.base import Samples
from trainer.data.table_samples import Feature, TableSamples
from trainer.errors import ConfigError
from trainer.explain.base import Kind
from trainer.explain.importance import CHUNK, Importance, joined
from trainer.explain.permutation_importance import PermutationImportance
from trainer.explain.tabular import TabularDecisions
from trainer.models.mlp import MLP


def _decisions(rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, columns: list[str] | None = None) -> TabularDecisions:
    """A linear model of the given `weights`, (features,) for numbers or (features, classes) for logits."""
    outputs = 1 if weights.ndim == 1 else weights.shape[1]
    spec: dict[str, Any] = {"features": rows.shape[1], **({"classes": outputs} if weights.ndim > 1 else {})}
    model = MLP(hidden=[])
    module = model.build(spec)
    (layer,) = (each for each in module.modules() if isinstance(each, nn.Linear))
    layer.weight.data = torch.from_numpy(weights.reshape(len(weights), outputs).T.astype(np.float32)).contiguous()
    layer.bias.data.zero_()
    features = rows.astype(np.float32)
    split: Samples = ArraySamples("features", features, labels, spec, "", {})
    if columns is not None:
        own = [Feature(column) for column in columns]
        split = TableSamples(features, labels, spec, "", {}, source=Path("none"), stamp=[], row_numbers=np.arange(len(rows)), columns=own)
    return TabularDecisions(model, module.eval(), split, split)


def _regression(count: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    rows, weights = random.normal(size=(count, 4)) * [1, 2, 1, 3], np.array([2.0, -1.0, 0.5, 0.0])
    return rows, weights, (rows @ weights).astype(np.float32)


def test_a_linear_model_that_is_right_loses_twice_the_variance() -> None:
    """The mean of w^2 (x - x')^2 over pairs is 2 w^2 var(x)."""
    rows, weights, labels = _regression()
    found = PermutationImportance(repeats=30).importance(_decisions(rows, labels, weights), range(4), 0)
    assert found.whole == {"loss": pytest.approx(0, abs=1e-10)}
    assert found.samples == 3000
    error = found.deviation("loss").numpy() / 30**0.5
    wanted = 2 * weights**2 * rows.var(0)
    assert (np.abs(found.mean("loss").numpy() - wanted) <= 4 * error + 1e-6).all()
    assert (error[:3] < 0.02 * wanted[:3]).all()
    assert float(found.mean("loss")[3]) == pytest.approx(0, abs=1e-9)


def test_scikit_learn_finds_the_same() -> None:
    from sklearn.inspection import permutation_importance
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(1)
    rows = random.normal(size=(1000, 3)).astype(np.float32)
    labels = (rows @ [2, 1, 0] + random.logistic(size=1000) > 0.5).astype(np.int64)
    logistic = LogisticRegression(fit_intercept=False).fit(rows, labels)
    found = PermutationImportance(repeats=40).importance(_decisions(rows, labels, np.column_stack([np.zeros(3), logistic.coef_[0]])), range(3), 0)
    assert set(found.whole) == {"loss", "accuracy", "auc"}
    theirs = permutation_importance(logistic, rows, labels, scoring=["neg_log_loss", "accuracy", "roc_auc"], n_repeats=40, random_state=0)
    for metric, scoring in (("loss", "neg_log_loss"), ("accuracy", "accuracy"), ("auc", "roc_auc")):
        wanted, spread = theirs[scoring].importances_mean, theirs[scoring].importances_std
        error = np.sqrt((found.deviation(metric).numpy() ** 2 + spread**2) / 40)
        assert (np.abs(found.mean(metric).numpy() - wanted) <= 4 * error + 1e-6).all(), metric
        np.testing.assert_allclose(found.deviation(metric), spread, rtol=0.6, atol=1e-3)
        assert wanted[0] > 4 * spread[0], metric


def test_features_of_a_column_are_shuffled_together() -> None:
    """Two features that cancel each other matter only if they are torn apart."""
    random = np.random.default_rng(0)
    first = random.normal(size=500)
    rows, weights = np.column_stack([first, first, random.normal(size=500)]), np.array([1.0, -1.0, 1.0])
    labels = (rows @ weights).astype(np.float32)
    apart = PermutationImportance().importance(_decisions(rows, labels, weights, ["a", "b", "c"]), range(3), 0)
    together = PermutationImportance().importance(_decisions(rows, labels, weights, ["a", "a", "c"]), range(2), 0)
    assert (apart.mean("loss") > 1).all()
    assert float(together.mean("loss")[0]) == pytest.approx(0, abs=1e-6)
    assert float(together.mean("loss")[1]) > 1


def test_ranks_that_share_the_columns_find_what_one_finds() -> None:
    rows, weights, labels = _regression(200)
    decisions = _decisions(rows, labels, weights)
    explainer = PermutationImportance()
    one = explainer.importance(decisions, range(4), 3)
    parts = [explainer.importance(decisions, range(rank, 4, 3), 3) for rank in range(3)]
    both = joined(parts)
    assert both.units == one.units == (0, 1, 2, 3)
    assert torch.equal(both.worse["loss"], one.worse["loss"])
    assert not torch.equal(explainer.importance(decisions, range(4), 4).worse["loss"], one.worse["loss"])
    nothing = explainer.importance(decisions, [], 3)  # of more ranks than columns
    assert torch.equal(joined([one, nothing]).worse["loss"], one.worse["loss"])


def test_chunks_change_nothing() -> None:
    rows, weights, labels = _regression(CHUNK + 100)
    found = PermutationImportance(samples=CHUNK + 100, repeats=10).importance(_decisions(rows, labels, weights), [0], 0)
    assert found.samples == CHUNK + 100
    assert float(found.mean("loss")[0]) == pytest.approx(8 * rows[:, 0].var(), rel=0.05)
    apart = PermutationImportance(samples=CHUNK + 100).importance(_decisions(rows, 0 * labels, np.array([1.0, 0, 0, 0])), [0], 0)
    np.testing.assert_allclose(apart.worse["loss"], 0, atol=1e-5)  # the same values in another order, each once
    some = PermutationImportance(samples=50, repeats=10).importance(_decisions(rows, labels, weights), [0], 0)
    assert some.samples == 50


def test_labels_of_one_class_have_no_auc() -> None:
    rows, _, _ = _regression(20)
    found: Importance = PermutationImportance().importance(_decisions(rows, np.zeros(20, np.int64), np.ones((4, 2))), range(4), 0)
    assert set(found.worse) == {"loss", "accuracy"}


def test_bad_input() -> None:
    rows, weights, labels = _regression(1)
    with pytest.raises(ConfigError, match="takes 2 samples or more, and the evaluation split has 1"):
        PermutationImportance().importance(_decisions(rows, labels, weights), range(4), 0)
    for knobs in ({"repeats": 1}, {"samples": 1}):
        with pytest.raises(ConfigError, match=f"{next(iter(knobs))}=1: must be at least 2"):
            PermutationImportance(**knobs).validate()
    with pytest.raises(ConfigError, match="explain=permutation_importance: explains tabular data, and this is text data"):
        PermutationImportance().check(Kind.text)
