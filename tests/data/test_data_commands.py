"""python -m trainer.data validate, split and card, as a person calls them."""

import html.parser
import json

import numpy as np
import pandas as pd
import pytest

from tests.commands import run
from trainer.data.__main__ import main
from trainer.data.tabular import Split, Tabular

ROWS = 1500


@pytest.fixture
def table():
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "income": random.normal(30, 5, ROWS),
            "student": random.choice(["No", "Yes"], ROWS),
            "customer": random.integers(0, 200, ROWS),
            "month": random.integers(1, 13, ROWS),
        }
    )
    return frame.assign(y=np.where(frame["income"] + 5 * random.normal(size=ROWS) > 38, "bad", "good"))


@pytest.fixture
def path(tmp_path, table):
    table.to_csv(tmp_path / "loans.csv", index=False)
    return tmp_path / "loans.csv"


def call(command, path, *more):
    return main([command, "data=tabular", f"data.path={path}", "data.target=y", "data.features=[income,student]", *more])


def test_validate_infers_once_and_enforces_after(path, table, capsys):
    assert call("validate", path) == 0
    schema = path.with_name("loans.csv.schema.yaml")
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"schema    {schema}: inferred now from {path}; to enforce it in training: data.schema={schema}"
    assert [line.split()[0] for line in told[1:]] == ["ok"] * 5
    table.loc[[3, 700], "income"] = [np.inf, np.nan]
    table.loc[5, "student"] = "Maybe"
    table.to_csv(path, index=False)
    before = schema.read_bytes()
    assert call("validate", path) == 1
    told = capsys.readouterr().out
    assert schema.read_bytes() == before
    assert f"error     {path}: 3 of 1,500 rows are bad\n" in told
    assert f"  {path}: column 'student', row 6: 'Maybe': is no known category; right would be one of 'No', 'Yes'\n" in told
    assert f"error     the samples cannot be made of it: {path}: column 'income', row 4: is infinite\n" in told
    assert call("validate", path, "validate.errors=[]") == 0


def test_validate_names_leaks_and_the_knobs_decide(path, table, capsys):
    flag = np.where(table["y"] == "bad", 1, 0)
    table = table.assign(flag=flag, near=flag + 1e-4 * np.arange(ROWS), same=1)
    table.to_csv(path, index=False)
    held_out = path.with_name("held_out.csv")
    table[:20].to_csv(held_out, index=False)
    assert call("validate", path, "data.features=[income,flag,near,same]", f"data.eval_path={held_out}") == 1
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("warning", "error"))]
    assert told == [
        "warning   column 'same' holds one value only: it tells nothing; leave it out of data.features",
        "error     column 'flag' is the target 'y' under another name: a one-to-one function of it",
        "warning   column 'near' alone foretells the target with an AUC of 1.0000 (threshold 0.99): is it known beforehand?",
        f"warning   20 of 20 rows of the eval split are in the training split too (100.0%): row 1 of {held_out} is row 1 of {path}, "
        f"row 2 of {held_out} is row 2 of {path}, row 3 of {held_out} is row 3 of {path}, ...",
    ]
    strict = "validate.errors=[alone]"
    for features, more, status in [("income,near", [], 0), ("income,near", [strict], 1), ("income", [strict], 0), ("income,flag", ["validate.errors=[]"], 0)]:
        assert call("validate", path, f"data.features=[{features}]", *more) == status
    assert call("validate", path, "data.features=[income]", strict, "validate.threshold=0.7") == 1


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_split_writes_files_that_train_as_the_rule_itself_does(tmp_path, table, suffix, capsys):
    path = tmp_path / f"loans.{suffix}"
    table["income"] = table["income"].mask(table.index == 9)
    table.loc[4, "student"] = 'a "quoted", one\nover lines'
    table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
    assert call("split", path, "data.split=stratified", f"split.out={tmp_path}/out") == 0
    told = capsys.readouterr().out
    read = pd.read_csv if suffix == "csv" else pd.read_parquet
    knobs = Tabular(path=str(path), target="y", features=["month"], split=Split.stratified)
    for split in ("train", "eval"):
        written = read(tmp_path / "out" / f"loans.{split}.{suffix}")
        pd.testing.assert_frame_equal(written, table.iloc[np.asarray(knobs.open(split).row_numbers)].reset_index(drop=True))
        bad = int((written["y"] == "bad").sum())
        assert f": {len(written):,} rows, y: bad {bad:,} ({bad / len(written):.2%})" in told
    assert call("split", path, "data.split=stratified", f"split.out={tmp_path}/out") == 2
    assert f"{tmp_path}/out/loans.train.{suffix}: is there already" in capsys.readouterr().err


def test_a_split_that_fails_leaves_no_file(path, capsys):
    assert call("split", path, "data.eval_fraction=1e-9") == 2
    assert capsys.readouterr().err == f"error: data.eval_fraction=1e-09: the eval split of {path} has no row\n"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


class Page(html.parser.HTMLParser):
    """The cells of all tables."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "td":
            self.cells.append("")
        self.links += [value for key, value in attrs if key in ("src", "href") and value != "data:,"]

    def handle_data(self, data):
        if self.cells and self.lasttag == "td":
            self.cells[-1] += data


def test_card(path, table, capsys):
    (path.parent / "asset.json").write_text(json.dumps({"title": "Loans", "licence": "CC BY 4.0", "source": "a bank"}))
    knobs = ["data.split=grouped", "data.group=customer", "data.eval_fraction=0.3", f"card.out={path.parent}/card"]
    assert call("card", path, *knobs) == 0
    written = path.parent / "card" / "loans.csv.card.md"
    assert capsys.readouterr().out == f"{written}\n{written.with_suffix('.html')}\n"
    page = Page(written.with_suffix(".html").read_text())
    assert page.links == []  # self-contained
    samples = Tabular(path=str(path), target="y", features=["income", "student"], split=Split.grouped, group="customer", eval_fraction=0.3).open("train")
    bad = int((table["y"].iloc[np.asarray(samples.row_numbers)] == "bad").sum())
    low, high = table["income"].min(), table["income"].max()
    for cell in ["CC BY 4.0", samples.fingerprint, f"{bad:,}", "splits by it", "not used", f"{low:.6g} to {high:.6g}, mean {table['income'].mean():.6g}"]:
        assert cell in page.cells, cell
    lines = written.read_text().splitlines()
    assert "| licence | CC BY 4.0 |" in lines
    assert f"| train | y: bad | {bad:,} | {bad / len(samples):.2%} |" in lines
    assert lines.count("| --- | --- |") == 3


def test_card_of_a_table_that_cannot_be_used(path, table):
    table["income"] = table["income"].astype(object)
    table.loc[10, "income"] = "<b>no|ne</b>"
    table.to_csv(path, index=False)
    assert call("card", path, "data.task=classification") == 0
    text = path.with_name("loans.csv.card.md").read_text()
    assert "row 11: '&lt;b>no\\|ne&lt;/b>'" in text
    assert "<b>" not in path.with_name("loans.csv.card.html").read_text()


ERRORS = [
    (["validate", "validate.threshold=0.4"], "error: validate.threshold=0.4: must be above 0.5 and at most 1\n"),
    (["validate", "validate.errors=[leak]"],
     "error: validate.errors: there is no check 'leak' (known: schema, prepared, constant, copy, alone, duplicates)\n"),
    (["validate", "validate.treshold=1"], "error: unknown key 'validate.treshold'; did you mean 'validate.threshold'?\n"),
    (["split", "data.eval_path=b.csv"], "error: data.eval_path=b.csv: is a split already; leave it out to split data.path\n"),
    (["card", "data=stdlib"], "error: data: python -m trainer.data card works on tables; give data=tabular data.path=FILE data.target=COLUMN\n"),
    (["look"], "usage: python -m trainer.data {profile,validate,split,card} data=... [key=value ...]\n"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), ERRORS)
def test_mistakes(path, arguments, message, capsys):
    table = [] if "data=stdlib" in arguments else ["data=tabular", f"data.path={path}", "data.target=y"]
    assert main([arguments[0], *table, *arguments[1:]]) == 2
    assert capsys.readouterr().err == message


def test_as_a_module(path):
    done = run("validate", "data=tabular", f"data.path={path}", "data.target=z", cwd=path.parent, module="trainer.data")
    assert done.returncode == 2
    assert done.stderr == f"error: data.target: {path} has no column 'z'; it has: income, student, customer, month, y\n"
