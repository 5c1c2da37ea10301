"""A finding is said as it is: what is not surely better does not beat, and what is unfair is not said to be fair."""

from __future__ import annotations

import pytest

from trainer.assess.told import NEURAL, amount, bar_verdict, calibration_verdict, cost_verdict, fairness_verdict, interval, money, points

NOTHING = (-0.01, 0.01)
KNOBS = {"smallest_group": 30, "largest_difference": 0.1}
MANY = {"knobs": KNOBS, "evaluation": {"people": 100, "defaults": 30}}


def estimate(low: float, high: float) -> dict:
    return {"value": (low + high) / 2, "low": low, "high": high}


def compared(auc: tuple[float, float], brier: tuple[float, float]) -> dict:
    """The differences of the neural network from the simple model."""
    return {**MANY, "models": {"logistic regression": {"metrics": {"auc/difference": estimate(*auc), "brier/difference": estimate(*brier)}}}}


@pytest.mark.parametrize(
    ("auc", "brier", "state", "words"),
    [
        ((0.01, 0.03), NOTHING, "good", "The neural network beats logistic regression: its difference is AUC +0.020 (+0.010 to +0.030) and"),
        (NOTHING, (-0.03, -0.01), "good", "The neural network beats logistic regression"),  # a lower Brier score is better
        (NOTHING, NOTHING, "bad", "The neural network does not beat logistic regression, which is simpler"),
        ((-0.03, -0.01), NOTHING, "bad", "The neural network is worse than logistic regression"),
        (NOTHING, (0.01, 0.03), "bad", "The neural network is worse than logistic regression"),
        ((0.01, 0.03), (0.01, 0.03), "unsure", "The neural network and logistic regression each win by one measure"),
        ((0.01, 0.03), (-0.03, -0.01), "good", "The neural network beats logistic regression"),
        ((-0.03, -0.01), (0.01, 0.03), "bad", "The neural network is worse than logistic regression"),
    ],
)
def test_the_bar(auc, brier, state, words):
    said = bar_verdict(compared(auc, brier), "logistic regression")
    assert said.state == state
    assert said.words.startswith(words)


@pytest.mark.parametrize(("defaults", "few"), [(29, "only 29 of 100 applicants default"), (71, "only 29 of 100 applicants pay back")])
def test_models_are_not_compared_on_too_few(defaults, few):
    found = {**compared((0.01, 0.03), NOTHING), "evaluation": {"people": 100, "defaults": defaults}}
    assert bar_verdict(found, "logistic regression") == ("unsure", f"Whether the neural network beats logistic regression cannot be told: {few}.")
    found["models"][NEURAL] = {"metrics": {"ece": estimate(0, 0)}, "exact_ece": 1.0}
    assert calibration_verdict(found) == ("unsure", f"Whether its probabilities are right cannot be told: {few}.")


@pytest.mark.parametrize(("error", "state"), [(0.02, "good"), (0.031, "bad")])
def test_calibration(error, state):
    assert calibration_verdict({**MANY, "models": {NEURAL: {"metrics": {"ece": estimate(error, error)}, "exact_ece": 0.03}}}).state == state


@pytest.mark.parametrize(
    ("none", "everybody", "state"),
    [((-3, -1), (-2, -1), "good"), ((-3, -1), (-2, 1), "unsure"), ((-3, -1), (-1, 2), "bad"), ((-1, 2), (-3, -1), "bad")],
)
def test_cost(none, everybody, state):
    decision = {"refused": estimate(0.1, 0.3), "threshold": 0.2, "cost": estimate(2, 3), "against_none": estimate(*none), "against_all": estimate(*everybody)}
    said = cost_verdict({"decisions": {NEURAL: decision}, "costs": {"default": 5, "refusal": 1, "unit": "EUR"}})
    assert said.state == state
    assert said.words.startswith("Refusing from a probability of 20.0% on costs 2.50 EUR (2.00 to 3.00) an applicant: ")


@pytest.mark.parametrize(
    ("verdict", "state", "words"),
    [
        ("fails", "bad", "By job, the shares accepted differ by 15.0 points (10.0 to 20.0): more than the 10 points allowed, and more than chance."),
        ("passes", "good", "within the 10 points allowed."),
        ("unsure", "unsure", "more than the 10 points allowed, but these people are too few to be sure."),
        ("too_small", "unsure", "cannot be compared: fewer than two groups have at least 30 people."),
    ],
)
def test_fairness(verdict, state, words):
    said = fairness_verdict({"column": "job", "differences": {"demographic_parity": {**estimate(0.1, 0.2), "verdict": verdict}}}, "demographic_parity", KNOBS)
    assert said.state == state
    assert said.words.endswith(words)


def test_figures_are_written_as_people_do():
    assert interval({"value": None, "low": None, "high": None}) == "not defined"
    assert interval({"value": 0.5, "low": None, "high": None}) == "0.500 (too few for an interval)"
    assert points(estimate(0.01, 0.03)) == "2.0 points (1.0 to 3.0)"
    assert money(estimate(1000, 3000), {"default": 5000, "refusal": 100, "unit": ""}, sign=True) == "+2,000 (+1,000 to +3,000)"
    assert amount({"default": 1, "refusal": 0.05})(0.01234) == "0.0123"
