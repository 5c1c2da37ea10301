"""The checks pass explainers that are right, and each explainer that is wrong fails those that its mistake shows in."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from tests.explain.evidence.explainers import Changed, Constant, InputNoise, Kernel, Lime, Magnitude, Noise, Orders, Unrepeatable
from tests.explain.evidence.small import decisions
from trainer.explain.base import Explainer
from trainer.explain.evidence import budget, run
from trainer.explain.evidence.check import Check
from trainer.explain.integrated_gradients import IntegratedGradients

SAMPLES = 8
DELETION, INSERTION, INFIDELITY, FAITHFUL = "deletion", "insertion", "infidelity", "faithful by every measure"
SENSITIVITY, TRUTH, GAP = "sensitivity-max", "error against brute-force Shapley values", "efficiency gap"
REPEAT, SEEDS, R2, COVERAGE = "same seed, same values", "agreement over 5 seeds", "R2 of the local model", "coverage of the intervals"
SANITY = "parameter randomisation by layer"
ORDER = {DELETION, INSERTION, INFIDELITY, FAITHFUL}


def evidence(explainer: Explainer, seed: int, features: int = 7) -> list[Check]:
    """For an MLP of that seed; what ranks send each other is JSON."""
    model, found = decisions(features, seed, background=4), []
    for index in range(SAMPLES):
        case = model.case(index)
        found.append(json.loads(json.dumps(run.measured(explainer, model, case, explainer.explain(case, 100 + index), 100 + index))))
        assert found[-1]["inputs"]["all"] <= budget.most(features, len(case.background), _inputs(explainer, case), explainer.is_random(), False)
    checks = run.judged(found)
    json.dumps([dataclasses.asdict(check) for check in checks], allow_nan=False)
    assert all(check.meaning for check in checks)
    return checks


def _inputs(explainer: Explainer, case) -> int:
    count = budget.Counter()
    explainer.explain(count.of(case), 0)
    return count.inputs


def names(checks: list[Check], passed: bool | None) -> set[str]:
    return {check.name for check in checks if check.passed is passed}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.large), pytest.param(2, marks=pytest.mark.large)])
@pytest.mark.parametrize(
    ("explainer", "judged"),
    [
        (Kernel(), {GAP, TRUTH, REPEAT}),
        (Orders(orders=200), {GAP, TRUTH, REPEAT, SEEDS, COVERAGE}),
        (Lime(), {REPEAT, SEEDS, R2}),
        (IntegratedGradients(), {GAP, REPEAT}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_right_ones_pass(explainer: Explainer, judged: set[str], seed: int):
    checks = evidence(explainer, seed)
    assert names(checks, False) == set()
    assert names(checks, True) == {"finite values", *ORDER, SENSITIVITY, SANITY} | judged


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.large), pytest.param(2, marks=pytest.mark.large)])
@pytest.mark.parametrize(
    ("explainer", "failed"),
    [
        (Constant(), {*ORDER, SANITY}),
        (Noise(), {*ORDER, SEEDS, SANITY}),
        (InputNoise(), {*ORDER, SENSITIVITY, SANITY}),
        (Magnitude(), {*ORDER, SANITY}),
        (Changed(right=Kernel()), {*ORDER, TRUTH}),
        (Changed(right=Kernel(), how="negated"), {*ORDER, TRUTH}),
        (Lime(samples=5), {SEEDS}),  # of few columns it finds the first ones, and its R2 is good
        (Kernel(samples=30), {TRUTH}),
        (Orders(orders=10, wrong_deviation=0.3), {TRUTH, COVERAGE}),
        (Unrepeatable(), {REPEAT}),
    ],
    ids=lambda value: f"{value.name} {getattr(value, 'how', '')}" if isinstance(value, Explainer) else "",
)
def test_wrong_ones_fail(explainer: Explainer, failed: set[str], seed: int):
    assert names(evidence(explainer, seed), False) >= failed


def test_values_that_are_no_numbers_are_reported():
    model = decisions(6, background=4)
    case = model.case(0)
    right = Lime().explain(case, 0)
    broken = dataclasses.replace(right, values=torch.where(torch.arange(6) == 2, torch.nan, right.values))
    checks = run.judged([run.measured(Lime(), model, case, broken, 0)])
    assert [(check.name, check.value, check.passed) for check in checks] == [("finite values", 1.0, False)]


def test_one_sample_is_told_and_not_judged_where_it_takes_more():
    model = decisions(6, background=4)
    case = model.case(0)
    checks = run.judged([run.measured(Lime(), model, case, Lime().explain(case, 0), 0)])
    assert names(checks, None) >= {DELETION, INSERTION, INFIDELITY, FAITHFUL, SANITY}


def test_a_sample_gives_the_same_evidence_wherever_it_is_measured():
    model = decisions(6, background=4)
    case = model.case(3)
    first = run.measured(Lime(samples=50), model, case, Lime(samples=50).explain(case, 1), 1)
    torch.rand(3)  # what came before on that rank
    assert run.measured(Lime(samples=50), model, model.case(3), Lime(samples=50).explain(case, 1), 1) == first
