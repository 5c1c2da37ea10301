"""A run on a table carries where its data comes from; a table that is not as the schema says ends it before any step."""

import hashlib
import json

import numpy as np
import pandas as pd
import pyarrow

from tests.commands import run
from trainer.checkpoint.directory import list_whole, read_manifest
from trainer.data.lineage import transforms
from trainer.data.schema import infer, save
from trainer.data.survey import survey
from trainer.data.tabular import Encoding, Missing, Tabular

ROWS = 400


def frame():
    random = np.random.default_rng(0)
    table = pd.DataFrame({"income": random.normal(30, 5, ROWS), "student": random.choice(["No", "Yes"], ROWS), "age": random.integers(18, 80, ROWS)})
    table.loc[[3, 8], "income"] = np.nan
    return table.assign(y=np.where(table["age"] > 50, "late", "paid"))


def test_checkpoint_and_report_carry_it_and_a_bad_table_trains_nothing(tmp_path):
    path, rules = tmp_path / "loans.parquet", tmp_path / "rules.yaml"
    frame().to_parquet(path)
    save(infer(survey(path)), rules, path)
    data = ["data=tabular", f"data.path={path}", "data.target=y", "data.missing=mean", "data.split=stratified", "data.eval_fraction=0.25"]
    command = ["model=mlp", *data, f"data.schema={rules}", "+strategy=ddp", "launcher.nproc_per_node=2", f"run_dir={tmp_path}/run"]
    done = run(*command, "train.max_steps=2", "log.every=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lineage = read_manifest(list_whole(tmp_path / "run")[-1])["data_lineage"]
    assert lineage["sources"] == [{"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "rows": ROWS}]
    assert lineage["split"] == {"rule": "stratified", "eval_fraction": 0.25, "seed": 0, "column": "y"}
    assert lineage["transforms"] == [
        "empty numbers take the training split's mean: income (2 cells)",
        "2 columns of numbers: minus the training split's mean, over its standard deviation",
        "1 column of categories: one feature per category of the training split",
        "float32",
    ]
    assert lineage["schema"] == infer(survey(path)).digest()
    assert lineage["versions"]["pyarrow"] == pyarrow.__version__
    assert json.loads((tmp_path / "run" / "run.json").read_text())["run"]["data"]["lineage"] == lineage
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Where the data comes from" in page
    assert lineage["sources"][0]["sha256"] in page
    assert lineage["sources"][0]["sha256"] not in done.stdout
    frame().assign(student=lambda table: table["student"].where(table.index != 5, "Maybe")).to_parquet(path)
    done = run(*command, "train.max_steps=4", cwd=tmp_path)
    assert done.returncode == 2
    assert f"error: {path}: 1 of 400 rows are not as data.schema says\n" in done.stderr
    assert "column 'student', row 6: 'Maybe': is no known category; right would be one of 'No', 'Yes'" in done.stderr
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_the_fingerprint_is_of_the_samples_and_not_of_their_lineage(tmp_path):
    frame().to_csv(tmp_path / "a.csv", index=False)
    frame().to_csv(tmp_path / "elsewhere.csv", index=False)
    one, other = (Tabular(path=str(tmp_path / name), target="y", missing=Missing.mean).open("train") for name in ("a.csv", "elsewhere.csv"))
    assert one.fingerprint == other.fingerprint
    assert one.describe()["lineage"] != other.describe()["lineage"]


def test_transforms_in_order():
    knobs = Tabular(path="a.csv", target="y", encoding=Encoding.ordinal, standardize=False)
    assert transforms(knobs, 3, 2, {}) == ["2 columns of categories: the place in sorted order", "float32"]
