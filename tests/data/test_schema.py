"""A schema is inferred, kept, and enforced: every bad row counted, the first named, held against a brute-force count by pandas."""

import numpy as np
import pandas as pd
import pytest
import yaml

from trainer.data.schema import ColumnRule, Schema, check, infer, load, save
from trainer.data.survey import survey
from trainer.data.tabular import Tabular
from trainer.errors import ConfigError

ROWS = 20_000


def good(seed=0):
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "income": random.normal(30, 5, ROWS).round(2),
            "children": random.integers(0, 5, ROWS),
            "student": random.choice(["No", "Yes"], ROWS),
            "day": np.datetime64("2020-01-01") + random.integers(0, 900, ROWS).astype("timedelta64[D]"),
            "note": [f"customer {i}" for i in range(ROWS)],
            "y": random.integers(0, 2, ROWS),
        }
    )


def write(path, table):
    table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, row_group_size=4000)
    return path


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    return infer(survey(write(tmp_path_factory.mktemp("schema") / "good.csv", good())))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_inferred(tmp_path, suffix):
    table = good()
    found = infer(survey(write(tmp_path / f"good.{suffix}", table)))
    assert found.columns["income"] == ColumnRule("number", False, table["income"].min(), table["income"].max())
    assert found.columns["children"] == ColumnRule("integer", False, 0, 4)
    assert found.columns["student"] == ColumnRule("category", categories=["No", "Yes"])
    assert found.columns["note"] == ColumnRule("text")
    assert found.columns["day"] == ColumnRule("time")
    table.loc[[3, 9], "income"] = np.nan
    assert infer(survey(write(tmp_path / f"holes.{suffix}", table))).columns["income"].missing


def test_kept_as_text_that_reads_back(tmp_path, rules):
    save(rules, tmp_path / "a.yaml", tmp_path / "good.csv")
    assert load(tmp_path / "a.yaml") == rules
    assert load(tmp_path / "a.yaml").digest() == rules.digest()
    assert yaml.safe_load((tmp_path / "a.yaml").read_text())["columns"]["student"] == {"type": "category", "categories": ["No", "Yes"]}


def test_the_table_that_it_was_inferred_from_keeps_it(tmp_path, rules):
    checked = check(rules, write(tmp_path / "good.csv", good()))
    assert (checked.rows, checked.bad_rows, checked.findings) == (ROWS, 0, [])


def spoiled():
    random = np.random.default_rng(1)
    table = good().astype(object)
    for column, cell, count in [("income", 1e9, 40), ("income", "lots", 30), ("income", None, 20), ("income", "-inf", 10),
                                ("children", 1.5, 25), ("student", "maybe", 15), ("y", 7, 5), ("day", "2020-13-01", 4)]:  # fmt: skip
        table.loc[random.choice(ROWS, count, replace=False), column] = cell
    return table


def test_every_bad_row_is_counted_and_the_first_are_named(tmp_path, rules):
    table = spoiled()
    path = write(tmp_path / "bad.csv", table)
    checked = check(rules, path)
    income = pd.to_numeric(table["income"], errors="coerce")
    is_text, is_empty = table["income"] == "lots", table["income"].isna()
    expected = {
        ("income", "is empty"): is_empty,
        ("income", "is not a number"): is_text,
        ("income", "is infinite"): np.isinf(income),
        ("income", "is out of range"): income == 1e9,
        ("children", "is no integer"): table["children"] == 1.5,
        ("student", "is no known category"): table["student"] == "maybe",
        ("y", "is out of range"): table["y"] == 7,
        ("day", "is no time"): table["day"] == "2020-13-01",
    }
    assert {(finding.column, finding.wrong): finding.count for finding in checked.findings} == {key: int(rows.sum()) for key, rows in expected.items()}
    assert checked.bad_rows == int(np.logical_or.reduce(list(expected.values())).sum())
    for finding in checked.findings:
        assert [row for row, _ in finding.first] == np.flatnonzero(expected[finding.column, finding.wrong])[:3].tolist()
    text = next(line for line in checked.lines() if "not a number" in line)
    low, high = good()["income"].min(), good()["income"].max()
    rows = np.flatnonzero(is_text)[:3] + 1
    cells = ", ".join(f"row {row}: 'lots'" for row in rows)
    assert text == f"{path}: column 'income', {cells} and {int(is_text.sum()) - 3} more: is not a number; right would be a number from {low} to {high}"


def test_training_refuses_a_table_that_disagrees(tmp_path, rules):
    save(rules, tmp_path / "rules.yaml", tmp_path / "good.csv")
    train, evaluation = write(tmp_path / "good.csv", good()), write(tmp_path / "eval.csv", good().assign(student="maybe").drop(columns="note")[:10])
    knobs = {"target": "y", "features": ["income"], "schema": str(tmp_path / "rules.yaml")}
    opened = Tabular(path=str(train), **knobs).open("train")
    assert opened.describe()["lineage"]["schema"] == rules.digest()
    with pytest.raises(ConfigError) as caught:
        Tabular(path=str(train), eval_path=str(evaluation), **knobs).open("train")
    assert str(caught.value) == (
        f"{evaluation}: 10 of 10 rows are not as data.schema says\n"
        f"  {evaluation}: column 'note' is absent; the schema has it as text\n"
        f"  {evaluation}: column 'student', row 1: 'maybe', row 2: 'maybe', row 3: 'maybe' and 7 more: "
        "is no known category; right would be one of 'No', 'Yes'"
    )


def test_a_changed_schema_is_asked_again(tmp_path, rules):
    path, place = write(tmp_path / "good.csv", good()), tmp_path / "rules.yaml"
    save(rules, place, path)
    knobs = Tabular(path=str(path), target="y", features=["income"], schema=str(place))
    fingerprint = knobs.open("train").fingerprint
    place.write_text(place.read_text().replace("max: 4", "max: 3"))
    with pytest.raises(ConfigError, match=r"column 'children', row .*: is out of range; right would be an integer from 0 to 3"):
        knobs.open("train")
    place.write_text(place.read_text().replace("max: 3", "max: 9"))
    assert knobs.open("train").fingerprint == fingerprint  # the same samples


def test_unknown_columns(tmp_path, rules):
    path = write(tmp_path / "more.csv", good().assign(extra=1)[:10])
    assert [line.split(": ", 1)[1] for line in check(rules, path).lines()] == [
        "column 'extra' is unknown; leave it out, or say in the schema what it holds, or unknown_columns: allow"
    ]
    assert check(Schema(rules.columns, "allow"), path).findings == []


def test_text_among_numbers_at_the_top_of_the_file_is_not_taken_for_categories(tmp_path):
    table = good()[:200].astype(object)
    table.loc[[5, 50], "income"] = "?"
    path = write(tmp_path / "a.csv", table)
    assert infer(survey(path)).columns["income"].type == "number"
    checked = check(infer(survey(path)), path)
    assert [(finding.wrong, finding.first) for finding in checked.findings] == [("is not a number", [(5, "?"), (50, "?")])]
    assert infer(survey(write(tmp_path / "names.csv", table.assign(note=[f"n{i // 2}" for i in range(200)])))).columns["note"].type == "text"
    table["size"] = ["5 and more" if i % 7 == 0 else i % 7 for i in range(200)]  # few different numbers: meant as categories
    assert infer(survey(write(tmp_path / "b.csv", table))).columns["size"].type == "category"


BROKEN = {
    "columns: {x: {type: numbr}}": "columns.x.type: must be one of integer, number, time, category, text",
    "columns: {x: {type: number, maxx: 1}}": "unknown key 'columns.x.maxx'; did you mean 'max'?",
    "columns: {x: {type: category, categories: [Yes]}}": "columns.x.categories: True is not text; write it in quotes",
    "columns: {x: {type: number, min: low}}": "columns.x.min: 'low' is not a number",
    "unknown_columns: no\ncolumns: {}": "unknown_columns: False: must be refuse or allow",
    "x: 1": "has no columns; right would be a file that python -m trainer.data validate has written",
}


@pytest.mark.parametrize(("text", "message"), BROKEN.items())
def test_broken_schemas(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"data.schema={path}: {message}"


def test_no_schema(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.yaml")
    assert str(caught.value).startswith(f"data.schema={tmp_path / 'none.yaml'}: ")
    assert "python -m trainer.data validate writes one" in str(caught.value)
