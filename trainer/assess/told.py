"""What an assessment has found, in sentences and tables, from assess.json alone. Nothing here imports torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainer.units import aligned

ASSESSED, FIGURES, DECISIONS = "assess", "assess.json", "decisions.csv"
NEURAL = "neural network"
METRICS = {"auc": "AUC", "ks": "KS", "brier": "Brier score", "ece": "calibration error"}
SIMPLER = ("logistic regression",)  # to explain, too
HIGHER_IS_BETTER = ("auc", "ks")
JUDGED = ("auc", "brier")
"""By which a model beats another: who is riskier than whom, and how well it says how much."""
FAIR = {
    "demographic_parity": ("shares accepted", "Demographic parity: the same share of each group is accepted."),
    "equal_opportunity": ("shares accepted of those who pay back", "Equal opportunity: of those who pay back, the same share of each group is accepted."),
}


Show = Callable[[float], str]
Estimate = Mapping[str, float | None]
"""Of "value", "low" and "high", None where it is not defined."""


class Verdict(NamedTuple):
    """A finding in a sentence."""

    state: str
    """good, bad or unsure."""
    words: str


def assessment(run_dir: Path) -> dict[str, Any]:
    """What assess.json of `run_dir` says; nothing where nothing was assessed."""
    path = run_dir / ASSESSED / FIGURES
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def verdicts(found: Mapping[str, Any]) -> list[Verdict]:
    """What is to be known first."""
    fair = [fairness_verdict(of_column, name, found["knobs"]) for of_column in found["fairness"] for name in FAIR]
    return [*(bar_verdict(found, name) for name in found["bars"]), calibration_verdict(found), cost_verdict(found), *fair]


def better(metric: str, difference: Estimate) -> int:
    """1: the neural network is surely better by `metric`; -1: surely worse; 0: neither."""
    low, high = difference["low"], difference["high"]
    if low is None or high is None or low <= 0 <= high:
        return 0
    return (1 if low > 0 else -1) * (1 if metric in HIGHER_IS_BETTER else -1)


def too_few(found: Mapping[str, Any]) -> str:
    """In words, that so few applicants default, or do not, that models cannot be compared; empty where they can."""
    people = found["evaluation"]
    of_each = {"default": people["defaults"], "pay back": people["people"] - people["defaults"]}
    rare = min(of_each, key=lambda what: of_each[what])
    return f"only {of_each[rare]} of {people['people']:,} applicants {rare}" if of_each[rare] < found["knobs"]["smallest_group"] else ""


def bar_verdict(found: Mapping[str, Any], bar: str) -> Verdict:
    """Whether the neural network beats the model `bar`: surely better by one of `JUDGED`, and by none surely worse."""
    if few := too_few(found):
        return Verdict("unsure", f"Whether the neural network beats {bar} cannot be told: {few}.")
    metrics = found["models"][bar]["metrics"]
    differences = {metric: metrics[f"{metric}/difference"] for metric in JUDGED}
    signs = [better(metric, difference) for metric, difference in differences.items()]
    said = " and ".join(f"{METRICS[metric]} {interval(difference, sign=True)}" for metric, difference in differences.items())
    if max(signs) == 1 and min(signs) >= 0:
        return Verdict("good", f"The neural network beats {bar}: its difference is {said}.")
    if min(signs) == -1 and max(signs) <= 0:
        return Verdict("bad", f"The neural network is worse than {bar}: its difference is {said}. Take {bar}.")
    if signs[0] * signs[1] == -1:
        return Verdict("unsure", f"The neural network and {bar} each win by one measure: the neural one's difference is {said}.")
    return Verdict("bad", f"The neural network does not beat {bar}{', which is simpler' * (bar in SIMPLER)}: its difference is {said}, which may be chance.")


def calibration_verdict(found: Mapping[str, Any]) -> Verdict:
    """Whether the probabilities are what they say."""
    one = found["models"][NEURAL]
    error, exact = one["metrics"]["ece"]["value"], one["exact_ece"]
    if few := too_few(found):
        return Verdict("unsure", f"Whether its probabilities are right cannot be told: {few}.")
    off = f"off by {error:.1%} on average, and by chance alone exact ones would be by up to {exact:.1%} with so many applicants"
    if error <= exact:
        return Verdict("good", f"Its probabilities are as right as can be told: they are {off}.")
    return Verdict("bad", f"Its probabilities are scores to rank by, not to take at their word: they are {off}.")


def cost_verdict(found: Mapping[str, Any]) -> Verdict:
    """Whether the threshold is worth having."""
    one, costs = found["decisions"][NEURAL], found["costs"]
    against = {"refusing nobody": one["against_none"], "refusing everybody": one["against_all"]}
    said = " and ".join(f"{money(difference, costs, sign=True)} against {other}" for other, difference in against.items())
    words = f"{rule(one)} costs {money(one['cost'], costs)} an applicant: {said}"
    if all(difference["high"] is not None and difference["high"] < 0 for difference in against.values()):
        return Verdict("good", f"{words}. It is cheaper than both.")
    if any(difference["value"] >= 0 for difference in against.values()):
        return Verdict("bad", f"{words}. A rule without any model is no dearer.")
    return Verdict("unsure", f"{words}. That it is cheaper than both may be chance.")


def fairness_verdict(of_column: Mapping[str, Any], name: str, knobs: Mapping[str, Any]) -> Verdict:
    """What one difference between the groups of one column means."""
    difference, limit = of_column["differences"][name], knobs["largest_difference"]
    column = of_column["column"].replace("_", " ")
    what = FAIR[name][0]
    if difference["verdict"] == "too_small":
        return Verdict("unsure", f"By {column}, the {what} cannot be compared: fewer than two groups have at least {knobs['smallest_group']} people.")
    said = f"By {column}, the {what} differ by {points(difference)}"
    if difference["verdict"] == "fails":
        return Verdict("bad", f"{said}: more than the {100 * limit:g} points allowed, and more than chance.")
    if difference["verdict"] == "passes":
        return Verdict("good", f"{said}: within the {100 * limit:g} points allowed.")
    more = "more than" if difference["value"] > limit else "within"
    return Verdict("unsure", f"{said}: {more} the {100 * limit:g} points allowed, but these people are too few to be sure.")


def lines(found: Mapping[str, Any]) -> list[str]:
    """For a terminal: the metrics of each model, and the verdicts."""
    people = found["evaluation"]
    models = list(found["models"])
    body = [[METRICS[metric], *(interval(found["models"][name]["metrics"][metric]) for name in models)] for metric in METRICS]
    table = aligned([[f"{people['people']:,} applicants, {people['defaults']:,} defaults", *models], *body], {0}).splitlines()
    mark = {"good": "ok  ", "bad": "FAIL", "unsure": "?   "}
    return [*table, *(f"{mark[verdict.state]}  {verdict.words}" for verdict in verdicts(found))]


def rule(decision: Mapping[str, Any]) -> str:
    """The threshold in words."""
    if not decision["refused"]["value"]:
        return "Refusing nobody, as no applicant comes up to the threshold,"
    return f"Refusing from a probability of {decision['threshold']:.1%} on"


def number(value: float) -> str:
    """A metric, to three decimals."""
    return f"{round(value, 3) + 0.0:.3f}"  # -0.0003 is 0.000


def percent(value: float) -> str:
    """A share."""
    return f"{value:.1%}"


def amount(costs: Mapping[str, Any]) -> Show:
    """How a cost per applicant is written: to a hundredth of the smaller of the two costs."""
    decimals = min(6, max(0, 2 - math.floor(math.log10(min(costs["default"], costs["refusal"])))))
    return lambda value: f"{value:,.{decimals}f}"


def interval(estimate: Estimate, show: Show = number, sign: bool = False, unit: str = "") -> str:
    """A value with its interval."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return "not defined"

    def plus(one: float) -> str:
        return "+" * (sign and one >= 0) + show(one)

    return f"{plus(value)}{unit} " + ("(too few for an interval)" if low is None or high is None else f"({plus(low)} to {plus(high)})")


def points(estimate: Estimate) -> str:
    """A difference of shares with its interval, in percentage points."""
    return interval(estimate, lambda value: f"{100 * value:.1f}", unit=" points")


def money(estimate: Estimate, costs: Mapping[str, Any], sign: bool = False) -> str:
    """A cost per applicant with its interval and unit."""
    return interval(estimate, amount(costs), sign, f" {costs['unit']}" if costs["unit"] else "")
