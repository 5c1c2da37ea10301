"""From a table to a decision, in a run: what is told is what scikit-learn counts in the decisions that are written."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.assess import small
from tests.commands import run_without_torch
from trainer.__main__ import train
from trainer.assess import bars
from trainer.assess import run as assessing
from trainer.assess.told import NEURAL, assessment
from trainer.cli import main
from trainer.data.tabular import Tabular
from trainer.errors import RunError
from trainer.posttrain.__main__ import main as posttrain
from trainer.posttrain.load import load

metrics = pytest.importorskip("sklearn.metrics")


@pytest.fixture(scope="module", autouse=True)
def small_boosting():
    """What boosting is best is asked in test_bars.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bars, "LEAVES", (3,))
        patch.setattr(bars, "TREES", (50,))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, small_boosting) -> Path:
    return small.run(tmp_path_factory.mktemp("credit"))


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    """The run, for a test that changes it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def decisions(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "assess" / "decisions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_told_is_what_the_decisions_come_to(trained):
    found, rows = assessment(trained), decisions(trained)
    bad = np.array([row["defaulted"] == "1" for row in rows])
    probability = np.array([float(row["probability"]) for row in rows])
    refused = np.array([row["refused"] == "1" for row in rows])
    assert found["evaluation"] == {"people": len(rows), "of": len(rows), "defaults": int(bad.sum())}
    one = {name: each["value"] for name, each in found["models"][NEURAL]["metrics"].items()}
    assert one["auc"] == pytest.approx(metrics.roc_auc_score(bad, probability))
    assert one["brier"] == pytest.approx(metrics.brier_score_loss(bad, probability))
    decision = found["decisions"][NEURAL]
    assert decision["refused"]["value"] == pytest.approx(refused.mean())
    assert decision["cost"]["value"] == pytest.approx((4 * (bad & ~refused).sum() + (~bad & refused).sum()) / len(bad))
    np.testing.assert_array_equal(refused, probability >= decision["threshold"])
    by_sex, by_age = found["fairness"]
    for group in by_sex["groups"]:
        inside = np.array([row["sex"] == group["name"] for row in rows])
        assert group["people"] == inside.sum()
        assert group["accepted"]["value"] == pytest.approx((~refused[inside]).mean())
    assert [group["name"] for group in by_age["groups"]] == ["under 25", "25 to under 60", "60 and over"]
    assert found["features"] == ["income", "debt", "region", "age"]  # and sex, which is none of them, is compared all the same
    assert one["auc"] > 0.75


def test_the_decisions_are_the_model_s_and_the_rows_those_of_the_file(trained):
    file = list(csv.DictReader((trained.parent / "applicants.csv").open(newline="")))
    loaded = load(trained)
    samples = loaded.config.data.open("eval")
    logits = loaded.config.model.outputs(loaded.module, samples.batch(range(len(samples)))).detach().double().numpy()
    for row, (no, yes) in zip(decisions(trained), logits, strict=True):
        own = file[int(row["row"]) - 1]
        assert (row["sex"], float(row["debt"]), row["defaulted"]) == (own["sex"], float(own["debt"]), str(int(own["defaulted"] == "yes")))
        assert float(row["margin"]) == pytest.approx(yes - no, abs=1e-5)
        assert float(row["probability"]) == pytest.approx(1 / (1 + np.exp(no - yes)), abs=1e-6)


def test_the_threshold_is_chosen_on_other_people(copied, monkeypatch):
    """With the labels of the evaluation split turned round, every threshold is the same."""
    table = assessing._table
    loaded = load(copied)
    config = loaded.config
    config.assess = part = assessing.Assess(cost_of_default=4)
    thresholds = []
    for turned in (False, True):

        def changed(samples, rows, place, turned=turned):
            features, bad = table(samples, rows, place)
            return features, ~bad if turned and len(samples) < 400 else bad

        monkeypatch.setattr(assessing, "_table", changed)
        found = assessing.assess(config, copied)
        thresholds.append([one["threshold"] for one in found["decisions"].values()])
    assert part.groups == []
    assert thresholds[0] == thresholds[1]


def test_the_other_class_may_be_the_default(copied, capsys):
    before = assessment(copied)["models"][NEURAL]["metrics"]["auc"]["value"]
    assert posttrain([str(copied), "assess=credit", "assess.default_class=no"]) == 0
    found = assessment(copied)
    assert found["default_class"] == "no"
    assert found["fairness"] == []
    assert found["models"][NEURAL]["metrics"]["auc"]["value"] == pytest.approx(before)  # both are turned round
    assert found["evaluation"]["defaults"] > found["evaluation"]["people"] / 2
    assert "neural network" in capsys.readouterr().out


def test_the_report_says_it(copied):
    assert posttrain([str(copied), *small.ASSESS, "assess.refused=2"]) == 0
    page = (copied / "report.html").read_text()
    found = assessment(copied)
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    for said in ("The decision", "Whom to refuse", "Fairness by sex", "Fairness by age", "60 and over", "Demographic parity", "cost per applicant, EUR"):
        assert said in text
    assert f"{found['models'][NEURAL]['metrics']['auc']['value']:.3f}" in text
    assert "The model does not see sex" in text
    assert "age is one of the model's inputs" in text
    assert page.count('<div class="card">') == 2
    assert "Why is not known" in text
    assert not re.search(r"\bnan\b", text)
    assert page.count("<figure") == page.count("</figure>")


def test_reasons_come_with_an_explanation(copied):
    rows = [row for row in decisions(copied) if row["refused"] == "1"]
    (copied / "explain").mkdir(exist_ok=True)
    lines = [
        json.dumps(
            {"sample": int(row["sample"]), "margin": float(row["margin"]), "units": ["income", "debt", "region", "age"], "values": [0.1, 0.9, 0.0, -0.4]}
        )
        for row in rows
    ]
    (copied / "explain" / "integrated_gradients.jsonl").write_text("\n".join(lines) + "\n")
    assert posttrain([str(copied), *small.ASSESS]) == 0
    page = (copied / "report.html").read_text()
    assert page.count('<div class="card">') == 3
    assert page.count("the debt, ") == 3
    assert "90% of what speaks against" in page
    assert "what integrated_gradients says" in page


def test_what_both_models_look_at_stands_side_by_side(copied):
    assert posttrain([str(copied), *small.ASSESS, "explain=[integrated_gradients]", "posttrain.explain_samples=400", "posttrain.evidence_samples=0"]) == 0
    found = json.loads((copied / "assess" / "assess.json").read_text())["boosting_looks_at"]
    assert set(found) == {"income", "debt", "region", "age"}
    assert found["region"] < min(found["income"], found["debt"])  # as the table was made
    page = (copied / "report.html").read_text()
    row = re.search(r'<th scope="row">debt</th>(.*?)</tr>', page[page.index("What do they look at?") :])[1]
    shares = [int(share) for share in re.findall(r"<td>(\d+)%</td>", row)]
    assert len(shares) == 2
    assert shares[1] == round(100 * found["debt"] / sum(found.values()))
    assert "neural network, by integrated_gradients" in page


def test_a_run_that_is_finished_is_assessed_without_training(trained, copied, capsys):
    (copied / "assess" / "assess.json").unlink()
    data = trained.parent / "applicants.csv"
    assert main(train, [f"run_dir={copied}", *small.OVERRIDES, f"data.path={data}", *small.ASSESS]) == 0
    shown = capsys.readouterr().out
    assert "this run is finished" in shown
    assert assessment(copied)["fairness"][0]["column"] == "sex"


def test_other_data_than_the_model_learned_from_is_refused(trained, capsys):
    assert posttrain([str(trained), "assess=credit", "data.eval_fraction=0.2"]) == 2
    assert capsys.readouterr().err.startswith("error: data: is not what the model was trained on; leave data.* as the run has it")


def test_a_model_that_gives_no_numbers_is_not_assessed(trained):
    loaded = load(trained)
    for parameter in loaded.module.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(RunError, match="assess: the model gives no finite number for 3 of 3 rows"):
        assessing._margins(loaded, loaded.config.data.open("eval"), np.arange(3), 1)


def test_of_few_people_nothing_is_said(copied, capsys):
    assert posttrain([str(copied), *small.ASSESS, "posttrain.evaluation_samples=2"]) == 0
    shown = capsys.readouterr().out
    assert "By sex, the shares accepted cannot be compared: fewer than two groups have at least 30 people." in shown
    assert "rows 2 were taken" in (copied / "report.html").read_text()


def test_a_compressed_model_is_assessed_where_it_is(copied):
    assert posttrain([str(copied), "compress=[prune]", "compress.prune.sparsity=0.3", "posttrain.latency_pairs=0", *small.ASSESS]) == 0
    (made,) = (path for path in (copied / "compressed").iterdir() if path.is_dir())
    before, after = assessment(copied)["models"], assessment(made)["models"]
    assert after[NEURAL]["metrics"]["brier"] != before[NEURAL]["metrics"]["brier"]
    assert after["logistic regression"]["calibration"] == before["logistic regression"]["calibration"]
    assert "The decision" in (made / "report.html").read_text()


BAD = [
    (["data=synthetic", "data.kind=tabular"], "the data is Synthetic"),
    (["data.task=regression", "data.target=debt", "data.features=[income]"], "data.task=regression; leave assess out, or choose a target of two classes"),
    (
        ["data.target=region", "data.features=[income]", "assess.default_class=east"],
        "assess.default_class=east: is not a class of the target; it has 'north' and 'south'",
    ),
    (["assess.groups=[gender]"], "has no column 'gender'; it has: income, debt, region, sex, age, defaulted"),
    (["assess.groups=[debt]"], "assess.groups: 'debt' has "),
    (["assess.cost_of_default=-1"], "assess.cost_of_default=-1.0: must be above 0"),
    (["assess.cost_of_refusal=0"], "assess.cost_of_refusal=0.0: must be above 0"),
    (["assess.cost_of_default=inf"], "assess.cost_of_default=inf: must be above 0"),
    (["assess.groups=[sex,{sex:[1]}]"], "names 'sex' twice"),
    (["assess.groups=[{age:[60,25]}]"], "assess.groups: age: [60, 25]: must be rising numbers, such as [25,60]"),
    (["assess.groups=[{age:[young]}]"], "assess.groups: age: ['young']: must be rising numbers"),
    (["assess.groups=[{age:[25],sex:[1]}]"], "is no column; give names, and where to cut numbers, such as [sex,{age:[25,60]}]"),
    (["assess.groups=[{sex:[1]}]"], "assess.groups: 'sex' holds text, which is not cut at [1]"),
    (["assess.smallest_group=1"], "assess.smallest_group=1: must be at least 2"),
    (["assess.largest_difference=1"], "assess.largest_difference=1.0: must be above 0 and below 1"),
]


@pytest.mark.parametrize(("overrides", "said"), BAD, ids=[" ".join(overrides) for overrides, _ in BAD])
def test_bad_input_is_said_before_anything_is_trained(tmp_path, capsys, overrides, said):
    data = small.table(tmp_path / "applicants.csv")
    own = {one.split("=")[0] for one in overrides}
    given = [f"data.path={data}", *(one for one in small.OVERRIDES if one.split("=")[0] not in own)]
    if "data" in own:
        given = [one for one in given if not one.startswith("data.")]
    assert main(train, [f"run_dir={tmp_path / 'run'}", *given, "assess=credit", *overrides]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_knob_of_what_is_not_asked_for(trained, capsys):
    assert posttrain([str(trained), "assess.cost_of_default=5"]) == 2
    assert capsys.readouterr().err == "error: assess.cost_of_default=5: no assess is chosen, so there is none to have it; add assess=NAME\n"


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (lambda i, is_eval: "abc"[i % 3], "has 3 classes ('a', 'b', 'c') in the training split"),
        (lambda i, is_eval: "a", "has one class ('a') in the training split"),
        (lambda i, is_eval: "a" if is_eval else "ab"[i % 2], " 0 are of the class 'b', where at least 1 are needed; take more rows, or another split"),
        (lambda i, is_eval: "b" if is_eval or i < 4 else "a", "are of the class 'b', where at least 5 are needed"),
    ],
)
def test_classes_that_make_no_decision(tmp_path, capsys, classes, said):
    from trainer.data.arrays import chosen_for_eval

    is_eval = chosen_for_eval(0, 60, 0, Tabular.eval_fraction)
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["x,y", *(f"{i},{classes(i, is_eval[i])}" for i in range(60))]) + "\n")
    overrides = ["data=tabular", f"data.path={path}", "data.target=y", "model=mlp", "assess=credit", f"run_dir={tmp_path / 'run'}"]
    assert main(train, overrides) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: assess: judges a classifier of two classes")
    assert said in shown
    assert not (tmp_path / "run").exists()


def test_bad_input_is_said_without_torch(tmp_path):
    data = small.table(tmp_path / "applicants.csv")
    done = run_without_torch("run_dir=run", *small.OVERRIDES, f"data.path={data}", "assess=credit", "assess.groups=[gender]", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "has no column 'gender'" in done.stderr


def test_a_model_of_reduced_rows_is_assessed_by_the_columns_of_the_file(tmp_path):
    run_dir = small.run(tmp_path, "data.reduce=pca", "data.components=3", "train.max_steps=20")
    found = json.loads((run_dir / "assess" / "assess.json").read_text())
    assert found["features"] == ["income", "debt", "region", "age"]
    assert {group["column"] for group in found["fairness"]} == {"sex", "age"}
