"""Splits of a table: what each rule promises, checked by hand on the file's own rows."""

import numpy as np
import pandas as pd
import pytest

from trainer.data.tabular import Split, Tabular
from trainer.errors import ConfigError

ROWS = 40_000  # more than one batch of Parquet


def frame(rows=ROWS):
    random = np.random.default_rng(0)
    days = np.datetime64("2020-01-01") + random.integers(0, 900, rows).astype("timedelta64[D]")
    classes = random.choice(["paid", "late", "default"], rows, p=[0.9, 0.07, 0.03])
    return pd.DataFrame({"x": random.normal(size=rows), "customer": random.integers(0, 5000, rows), "day": days.astype("datetime64[s]"), "y": classes})


def write(place, table):
    table.to_csv(place, index=False) if place.suffix == ".csv" else table.to_parquet(place, row_group_size=9000)
    return place


def rows_of(path, **knobs):
    """(rows for training, rows for evaluation)."""
    data = Tabular(**{"path": str(path), "target": "y", "features": ["x"], "eval_fraction": 0.23} | knobs)
    data.validate()
    return tuple(np.asarray(data.open(split).row_numbers) for split in ("train", "eval"))


RULES = {"stratified": {"split": Split.stratified}, "grouped": {"split": Split.grouped, "group": "customer"}, "time": {"split": Split.time, "time": "day"}}


@pytest.mark.parametrize("rule", RULES)
def test_each_row_is_in_one_split_and_csv_and_parquet_agree(tmp_path, rule):
    parquet = rows_of(write(tmp_path / "a.parquet", frame()), **RULES[rule])
    csv = rows_of(write(tmp_path / "a.csv", frame()), **RULES[rule])
    assert sorted(np.concatenate(parquet).tolist()) == list(range(ROWS))
    for one, other in zip(parquet, csv, strict=True):
        np.testing.assert_array_equal(one, other)


def test_stratified_keeps_the_share_of_each_class_within_one_row_from_any_beginning(tmp_path):
    table = frame()
    _, chosen = rows_of(write(tmp_path / "a.parquet", table), split=Split.stratified)
    is_eval = np.isin(np.arange(ROWS), chosen)
    for name in table["y"].unique():
        of_class = (table["y"] == name).to_numpy()
        expected = 0.23 * np.arange(1, of_class.sum() + 1)
        assert np.abs(np.cumsum(is_eval[of_class]) - expected).max() < 1
    gaps = np.diff(np.flatnonzero(is_eval[(table["y"] == "paid").to_numpy()]))
    assert len(set(gaps.tolist())) > 4  # not every fourth row: what is periodic in the file would be so in the split
    other = rows_of(tmp_path / "a.parquet", split=Split.stratified, seed=1)[1]
    assert 0.15 < np.isin(other, chosen).mean() < 0.31  # another seed, other rows


@pytest.mark.parametrize("fraction", [0.5, 0.7, 1 / 3, 0.999])
def test_stratified_by_any_share(tmp_path, fraction):
    table = frame(3000)
    _, chosen = rows_of(write(tmp_path / "a.csv", table), split=Split.stratified, eval_fraction=fraction)
    for name, total in table["y"].value_counts().items():
        assert abs((table["y"].iloc[chosen] == name).sum() - total * fraction) < 1


def test_groups_stay_together(tmp_path):
    table = frame()
    train, evaluation = rows_of(write(tmp_path / "a.parquet", table), **RULES["grouped"])
    customers = [set(table["customer"].iloc[rows]) for rows in (train, evaluation)]
    assert not customers[0] & customers[1]
    assert len(customers[1]) / 5000 == pytest.approx(0.23, abs=0.03)


def test_the_last_rows_in_time_are_for_evaluation_and_no_moment_is_parted(tmp_path):
    table = frame()
    train, evaluation = rows_of(write(tmp_path / "a.parquet", table), **RULES["time"])
    assert table["day"].iloc[train].max() < table["day"].iloc[evaluation].min()
    same_day = (table["day"] == table["day"].iloc[evaluation].min()).sum()
    assert 0.23 * ROWS <= len(evaluation) < 0.23 * ROWS + same_day


@pytest.mark.parametrize("rule", ["stratified", "grouped"])
def test_rows_that_are_appended_move_none(tmp_path, rule):
    before = rows_of(write(tmp_path / "a.csv", frame()[:3000]), **RULES[rule])[1]
    after = rows_of(write(tmp_path / "b.csv", frame()[:5000]), **RULES[rule])[1]
    np.testing.assert_array_equal(after[after < 3000], before)


def test_the_columns_of_the_split_are_no_features_unless_they_are_asked_for(tmp_path):
    path = write(tmp_path / "a.csv", frame(500))
    knobs = {"path": str(write(tmp_path / "b.csv", frame(500).drop(columns="day"))), "target": "y", "split": Split.grouped, "group": "customer"}
    assert Tabular(**knobs).open("train").spec["feature_names"] == ["x"]
    assert Tabular(**knobs, features=["customer"]).open("train").spec["feature_names"] == ["customer"]
    lineage = Tabular(path=str(path), target="y", split=Split.time, time="day", features=["x"]).open("train").describe()["lineage"]
    assert lineage["split"]["rule"] == "time"
    assert pd.Timestamp(lineage["split"]["eval_from"]) in set(frame(500)["day"])


@pytest.mark.parametrize(
    ("cells", "knobs", "message"),
    [
        (["1", "", "3"], {"split": Split.grouped, "group": "g"}, "{path}: column 'g', row 2: the cell is empty; every row needs its group (data.group)"),
        (["2024-01-01", "soon", "2024-01-03"], {"split": Split.time, "time": "g"},
         "{path}: column 'g', row 2: 'soon' is not a number, a date or a time such as 2024-01-31 or 2024-01-31T12:30:00"),
        (["7", "7", "7"], {"split": Split.time, "time": "g"},
         "data.time=g: {path}: the last 0.23 of the rows begin at the first time of all; nothing is before it"),
        (["1", "2", "3"], {"split": Split.grouped, "group": "h"}, "data.group: {path} has no column 'h'; it has: x, g, y"),
    ],
)  # fmt: skip
def test_what_cannot_be_split(tmp_path, cells, knobs, message):
    path = tmp_path / "a.csv"
    path.write_text("x,g,y\n" + "".join(f"{row},{cell},{row % 2}\n" for row, cell in enumerate(cells)))
    with pytest.raises(ConfigError) as caught:
        rows_of(path, **knobs)
    assert str(caught.value) == message.format(path=path)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"split": Split.grouped}, "data.split=grouped: needs data.group=COLUMN"),
        ({"split": Split.time, "group": "g", "time": "t"}, "data.group=g: has no effect with data.split=time; it needs data.split=grouped"),
        ({"time": "t"}, "data.time=t: has no effect with data.split=hash; it needs data.split=time"),
        ({"split": Split.time, "time": "t", "eval_path": "b.csv"},
         "data.split=time: has no effect with data.eval_path, which is the eval split; leave one of them out"),
    ],
)  # fmt: skip
def test_impossible_rules(knobs, message):
    with pytest.raises(ConfigError) as caught:
        Tabular(path="a.csv", target="y", **knobs).validate()
    assert str(caught.value) == message
