"""Planted leaks are found, and what is none is not; scores against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from trainer.data.leakage import alone, auc, duplicates, midranks
from trainer.data.tabular import Tabular, Task

ROWS = 3000


def opened(path, table, split="train", **knobs):
    table.to_csv(path, index=False)
    return Tabular(**{"path": str(path), "target": "y"} | knobs).open(split)


def honest():
    random = np.random.default_rng(0)
    return pd.DataFrame({"a": random.normal(size=ROWS), "b": random.choice(list("uvw"), ROWS), "y": random.choice(["no", "yes"], ROWS, p=[0.9, 0.1])})


def found(samples):
    return {one.column: one for one in alone(samples)}


def test_scores_are_those_of_scikit_learn_and_scipy():
    random = np.random.default_rng(0)
    values = random.integers(0, 30, 500).astype(float)  # ties
    positive = random.random(500) < 1 / (1 + np.exp(-(values - 15) / 5))
    assert auc(values, positive) == pytest.approx(roc_auc_score(positive, values), abs=1e-12)
    np.testing.assert_array_equal(midranks(values), rankdata(values))


def test_honest_columns_are_not_accused(tmp_path):
    scores = found(opened(tmp_path / "a.csv", honest()))
    assert all(0.4 < one.score < 0.6 and not one.copy for one in scores.values())


def test_a_column_of_names_does_not_foretell_by_being_different_in_each_row(tmp_path):
    table = honest().assign(id=[f"n{i // 2}" for i in range(ROWS)])  # two rows each
    train = opened(tmp_path / "a.csv", table, features=["id", "a"], eval_path=str(tmp_path / "a.csv"))
    assert found(train)["id"].score < 0.7


def test_leaks_of_a_class(tmp_path):
    table = honest()
    random = np.random.default_rng(1)
    is_yes = (table["y"] == "yes").to_numpy()
    table["code"] = np.where(is_yes, "k7", "k3")
    table["number"] = np.where(is_yes, -4, 11)
    table["late"] = np.where(is_yes, random.normal(10, 1, ROWS), random.normal(0, 1, ROWS))
    table["middle"] = np.where(is_yes, random.uniform(-0.1, 0.1, ROWS), random.choice([-1, 1], ROWS) * random.uniform(0.2, 1, ROWS))
    table["status"] = np.where(is_yes, "gone", random.choice(["new", "old"], ROWS))  # foretells, but is more than the target
    scores = found(opened(tmp_path / "a.csv", table))
    assert {name for name, one in scores.items() if one.copy} == {"code", "number"}
    assert {name for name, one in scores.items() if one.score >= 0.99} == {"code", "number", "late", "middle", "status"}


def test_leaks_of_a_number(tmp_path):
    random = np.random.default_rng(2)
    table = pd.DataFrame({"a": random.normal(size=ROWS)}).assign(y=random.normal(size=ROWS))
    table["scaled"], table["cubed"] = 3 - 5 * table["y"], table["y"] ** 3
    table["noisy"], table["square"] = table["y"] + 0.01 * random.normal(size=ROWS), np.sqrt(np.abs(table["y"]))
    table["half"] = table["y"] + random.normal(size=ROWS)
    scores = found(opened(tmp_path / "a.csv", table, task=Task.regression))
    assert {name for name, one in scores.items() if one.copy} == {"scaled", "cubed"}
    assert scores["noisy"].score > 0.99
    assert scores["half"].score == pytest.approx(0.5, abs=0.05)
    assert scores["a"].score < 0.05


def test_rows_of_both_splits(tmp_path):
    table = honest()
    held_out = pd.concat([table.iloc[[7, 1000]], honest().assign(a=lambda frame: frame["a"] + 100)[:50], table.iloc[[7]].assign(y="no")])
    held_out.to_csv(tmp_path / "b.csv", index=False)
    table = pd.concat([table, table.iloc[[3, 3]]])
    splits = [opened(tmp_path / "a.csv", table, split, eval_path=str(tmp_path / "b.csv")) for split in ("train", "eval")]
    result = duplicates(*splits)
    expected = held_out.reset_index().merge(table.drop_duplicates(), on=["a", "b", "y"])
    assert (result.count, result.of, result.within) == (len(expected), 53, 2)
    assert result.first[:2] == [(0, 7), (1, 1000)]
    assert duplicates(splits[0], splits[0]).count == ROWS + 2
