"""Tables that cannot be used are refused with column and row named, and what can be used gives finite features: never a silent NaN."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from trainer.data.tabular import Missing, Split, Tabular, Task, Unseen
from trainer.errors import ConfigError

ROWS = 300
SPOILED = 7  # a row


def frame():
    random = np.random.default_rng(0)
    return pd.DataFrame({"x": random.normal(size=ROWS), "c": random.choice(list("ab"), ROWS), "y": random.choice(["p", "q"], ROWS)})


def spoil(cell, **more):
    table = frame().assign(k=frame()["x"], **more)
    return table.assign(k=table["k"].where(table.index != SPOILED, cell))


def opened(path, table, **knobs):
    table.to_parquet(path)
    data = Tabular(**{"path": str(path), "target": "y"} | knobs)
    data.validate()
    return [data.open(split) for split in ("train", "eval")]


USABLE = {
    "constant columns": (frame().assign(k=3.0, s="u"), {}, 5),
    "missing numbers": (spoil(np.nan), {"missing": Missing.mean}, 4),
    "integers that float64 does not hold": (frame().assign(k=2**60 + 10**12 * np.arange(ROWS), u=np.arange(ROWS, dtype="u8") * 10**12 + 2**63), {}, 5),
    "tiny numbers": (frame().assign(k=frame()["x"] * 1e-200), {}, 4),
    "large numbers": (frame().assign(k=frame()["x"] * 1e100), {}, 4),
    "decimals, truth values, dates, pandas' categories": (
        frame().assign(k=[Decimal("1.50")] * ROWS, b=frame()["x"] > 0, d=pd.Timestamp("2020-01-01"), c=frame()["c"].astype("category")), {}, 7),
    "300 rows of 2,000 columns": (pd.DataFrame(np.random.default_rng(0).normal(size=(ROWS, 2000))).rename(columns=str).assign(y=frame()["y"]), {}, 2000),
}  # fmt: skip


@pytest.mark.parametrize("case", USABLE)
def test_what_can_be_used_gives_finite_features(tmp_path, case):
    table, knobs, features = USABLE[case]
    for samples in opened(tmp_path / "a.parquet", table, **knobs):
        rows, _ = samples.flat(0, len(samples))
        assert rows.shape[1] == features
        assert np.isfinite(rows).all()
        assert np.abs(rows).max() < 20  # standardised


REGRESSION = {"task": Task.regression}
REFUSED = {
    "an infinity": (spoil(-np.inf), {}, "column 'k', row 8: is infinite"),
    "a missing number": (spoil(np.nan), {}, "column 'k', row 8: the cell is empty; data.missing=mean takes the training split's mean"),
    "a missing category": (frame().assign(c=frame()["c"].where(frame().index != SPOILED)), {"missing": Missing.mean},
                           "column 'c', row 8: the cell is empty; categories have no mean: fill it, or leave the column out of data.features"),
    "a missing number taken as category": (spoil(np.nan), {"categorical": ["k"]},
                                           "column 'k', row 8: the cell is empty; categories have no mean: fill it, or leave the column out of data.features"),
    "no number at all": (frame().assign(k=np.nan), {"missing": Missing.mean},
                         "column 'k', row 1: the cell is empty; no training row has a value to take the mean of; leave the column out of data.features"),
    "a missing class": (frame().assign(y=frame()["y"].where(frame().index != SPOILED)), {}, "column 'y', row 8: the cell is empty; every row needs a target"),
    "a missing target": (spoil(np.nan).drop(columns="y"), {"target": "k", **REGRESSION}, "column 'k', row 8: the cell is empty; every row needs a target"),
    "a huge number": (spoil(1e300), {}, "column 'k', row 8: 1e+300 is too large to compute with; mend it, or leave the column out"),
    "a large number as it is": (spoil(1e39), {"standardize": False},
                                "column 'k', row 8: 1e+39 is too large for float32; data.standardize=true, or leave the column out"),
    "a large target": (spoil(1e39).drop(columns="y"), {"target": "k", **REGRESSION},
                       "column 'k', row 8: 1e+39 is too large for float32; give the target in a larger unit"),
    "lists": (frame().assign(k=[[1, 2]] * ROWS), {},
              "column 'k' holds list<element: int64>, which is neither numbers nor categories; leave it out of data.features"),
    "bytes": (frame().assign(k=[b"\xff\xfe"] * ROWS), {}, "column 'k' holds binary, which is neither numbers nor categories; leave it out of data.features"),
    "text among numbers": (frame().assign(k=[str(i) if i != SPOILED else "?" for i in range(ROWS)]), {},
                           "column 'k', row 8: '?' is not a number, and 99.6% of the column's cells are; mend it, or to take the column as categories: "
                           "data.categorical=[k]"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_is_named(tmp_path, case):
    table, knobs, message = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        opened(tmp_path / "a.parquet", table, **knobs)
    assert str(caught.value).removeprefix(f"{tmp_path / 'a.parquet'}").removeprefix(": ") == message


def test_a_number_that_is_text_in_the_eval_file(tmp_path):
    frame().assign(x="many").to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ConfigError) as caught:
        opened(tmp_path / "a.parquet", frame(), eval_path=str(tmp_path / "b.parquet"))
    told = f"{tmp_path / 'b.parquet'}: column 'x', row 1: 'many' is not a number"
    assert str(caught.value) == f"{told}; to take the column as categories: data.categorical=[x]"


def test_unseen_categories_are_let_in_when_asked(tmp_path):
    held_out = frame().assign(c=np.where(np.arange(ROWS) == 3, "z", frame()["c"]))
    held_out.to_parquet(tmp_path / "b.parquet")
    _, evaluation = opened(tmp_path / "a.parquet", frame(), eval_path=str(tmp_path / "b.parquet"), unseen=Unseen.zero)
    rows, _ = evaluation.flat(0, ROWS)
    np.testing.assert_array_equal(rows[:, 1:].sum(axis=1), np.arange(ROWS) != 3)
    held_out.assign(y="other").to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match=r"column 'y', row 1: the category 'other' is not in the training split$"):
        opened(tmp_path / "a.parquet", frame(), eval_path=str(tmp_path / "b.parquet"), unseen=Unseen.zero)


def test_names_of_customers_do_not_become_ten_thousand_features(tmp_path):
    table = pd.DataFrame({"id": [f"n{i}" for i in range(13_000)], "y": 1})
    with pytest.raises(ConfigError, match=r"column 'id' has 11,\d+ categories, and each would become a feature \(at most 10,000\); leave it out of"):
        opened(tmp_path / "a.parquet", table)


@pytest.mark.parametrize("split", [{}, {"split": Split.stratified}, {"split": Split.time, "time": "x"}, {"split": Split.grouped, "group": "c"}])
@pytest.mark.parametrize("rows", [0, 1])
def test_no_row_and_one_row(tmp_path, split, rows):
    with pytest.raises(ConfigError, match=r"has no rows$|the (eval|train) split of .* has no row$|begin at the first time of all; nothing is before it$"):
        opened(tmp_path / "a.parquet", frame()[:rows], **split)
