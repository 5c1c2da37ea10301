"""Reasons of refused applicants come from the explanation of the same decisions, whichever class it explains, and from no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.assess.applicants import told

FOUND = {
    "knobs": {"refused": 3, "reasons": 2},
    "usual": {"amount": {"median": 20.0, "low": 10.0, "high": 30.0}, "job": {"people": {"none": 4}, "defaults": {"none": 0.5}, "all": 0.3}},
}


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """Ten applicants, of whom those with an even number are refused; the margin of number i is i."""
    lines = [f"{i},{i + 101},{float(i)},{i / 10},{int(i % 2 == 0)},{int(i > 5)},{'' if i == 2 else 90.0},none" for i in range(10)]
    (tmp_path / "assess").mkdir()
    (tmp_path / "assess" / "decisions.csv").write_text("\n".join(["sample,row,margin,probability,refused,defaulted,amount,job", *lines]) + "\n")
    return tmp_path


def explain(run_dir: Path, samples: list[int], sign: float = 1.0, off: float = 0.0, name: str = "shap") -> None:
    (run_dir / "explain").mkdir(exist_ok=True)
    rows = [{"sample": i, "margin": sign * i + off, "units": ["amount", "job"], "values": [sign * 1.5, sign * -0.5]} for i in samples]
    (run_dir / "explain" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_without_an_explanation_they_are_shown_without_reasons(run_dir):
    found = told(run_dir, FOUND)
    assert [one.sample for one in found.shown] == [8, 4, 0]  # the surest refusal, the narrowest, and one between them
    assert found.shown[0].row == 109
    assert found.shown[0].defaulted
    assert [one.reasons for one in found.shown] == [[], [], []]
    assert found.note == "Why is not known: no explanation of these decisions is in the run directory."


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_reasons_are_against_the_applicant_whichever_class_is_explained(run_dir, sign):
    explain(run_dir, [1, 2, 6], sign)
    found = told(run_dir, FOUND)
    assert [one.sample for one in found.shown] == [6, 2]  # 1 is not refused
    assert [reason.words for reason in found.shown[0].reasons] == ["the amount, 90, is higher than usual (median 20, half of all between 10 and 30)"]
    assert [reason.words for reason in found.shown[1].reasons] == ["the amount is not stated"]
    assert found.note.startswith("Reasons are what shap says")


def test_an_explanation_of_another_model_is_not_taken(run_dir):
    explain(run_dir, [2, 4, 6], off=0.5)
    found = told(run_dir, FOUND)
    assert [one.explained for one in found.shown] == [False, False, False]


def test_of_several_explainers_it_is_the_one_that_failed_fewest_checks_and_its_failures_are_told(run_dir):
    for name in ("lime", "shap"):
        explain(run_dir, [2, 4, 6], name=name)
    assert "what lime says" in told(run_dir, FOUND).note
    checks = {"lime": [{"name": "efficiency", "passed": True}, {"name": "faithfulness", "passed": False}, {"name": "other", "passed": None}]}
    path = run_dir / "explain" / "explain.json"
    path.write_text(json.dumps({"explainers": {name: {"checks": each} for name, each in checks.items()}}))
    found = told(run_dir, FOUND)
    assert "what shap says" in found.note
    assert found.warning == ""
    (run_dir / "explain" / "shap.jsonl").unlink()
    assert told(run_dir, FOUND).warning == "Do not rely on them: lime has failed its checks (faithfulness)."


def test_nobody_is_shown_where_nobody_is_refused_or_asked_for(run_dir):
    assert told(run_dir, {**FOUND, "knobs": {"refused": 0, "reasons": 2}}).shown == []
    path = run_dir / "assess" / "decisions.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert told(run_dir, FOUND).shown == []
