"""Stability: the same again with the same seed, and nearly the same with another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.explain.base import Explainer
from trainer.explain.case import Attribution, Case
from trainer.explain.evidence.budget import RUNS
from trainer.explain.evidence.check import Check, Found, check, interval, mean, numbers
from trainer.explain.evidence.ranks import mattering, overlap, rank_correlation

REPEAT = 1e-6
APART = 0.25
R2 = 0.5
COVERAGE = 0.8


def measured(explainer: Explainer, case: Case, attribution: Attribution, seed: int) -> dict[str, Any]:
    """Runs with the same seed and with others, the local model's R2, and what standard errors say.

    A method that is not random is run with one other seed, which must change nothing.
    """
    again = explainer.explain(case, seed)
    others = [explainer.explain(case, seed + number) for number in range(1, RUNS if explainer.is_random() else 2)]
    found: dict[str, Any] = {
        "repeat": distance(again.values, attribution.values),
        "other_seed": distance(others[0].values, attribution.values),
        "r2": attribution.told.get("r2"),
    }
    if explainer.is_random():
        pairs = list(itertools.combinations([attribution, *others], 2))
        found["apart"] = mean([distance(other.values, one.values) for one, other in pairs])
        found["rank"] = mean([rank_correlation(mattering(one.values), mattering(other.values)) for one, other in pairs])
        found["top"] = mean([overlap(one.values, other.values) for one, other in pairs])
        covered = [covers(one, other) for one, other in pairs]
        found["coverage"] = mean([float(each.to(torch.float64).mean()) for each in covered if each is not None])
        if attribution.deviation is not None:
            found["half_width"] = float(1.96 * attribution.deviation.max() / attribution.values.abs().max().clamp(min=torch.finfo(torch.float64).tiny))
    return found


def covers(one: Attribution, other: Attribution) -> Tensor | None:
    """(units,) bool: the difference of two runs is within the interval of 95 % that their standard errors give it, or within rounding of 0."""
    if one.deviation is None or other.deviation is None:
        return None
    apart = (one.values - other.values).abs()
    return apart <= 1.96 * (one.deviation.square() + other.deviation.square()).sqrt() + 1e-9 * one.values.abs().max()


def distance(one: Tensor, other: Tensor) -> float:
    """The norm of the difference, as a share of the norm of `other`."""
    norm = float(other.norm())
    return float((one - other).norm()) / norm if norm else float(bool(one.any()))


def judged(found: Sequence[Found]) -> list[Check]:
    """The same seed must give the same values (REPEAT: a graphics card may add up in another order), and other seeds nearly the same.

    APART: on MLPs with 4, 8 and 30 columns, three of each, LIME of 1,000 samples gave 0.02 to 0.07, sampled orders 0.00 to 0.13; LIME with 30
    samples 0.37 to 0.80, with 5 samples 1 and more, and random values 1.4 and more. Ranks are told and not judged: on a GPT whose decisions
    hang on one token of 24, LIME and SHAP are right and agree on it, and have the tokens that do not matter in another order for each seed.
    R2: of what the decision varies by near the sample, the local model must explain more than it leaves. COVERAGE: intervals of 95 % from 3
    pairs of orders covered 87 to 88 % (their own width is uncertain), from 20 and more 92 to 97 %; with half of their width less than 70 %.
    """
    random = found[0]["claims"]["random"]
    repeats, others = numbers(found, "stability", "repeat"), numbers(found, "stability", "other_seed")
    apart = max(repeats if random else [*repeats, *others])
    checks = [
        check(
            "stability",
            "same seed, same values",
            apart,
            f"at most {REPEAT} of their norm" + ("" if random else ", with another seed too, for the method is not random"),
            apart <= REPEAT,
            "The explanation can be had again.",
            "The same command explains the same decision differently each time, so no one can check it.",
            "",
        )
    ]
    if random:
        distances = numbers(found, "stability", "apart")
        changed = mean(distances)
        alike = {"rank correlation": mean(numbers(found, "stability", "rank")), "top units in common": mean(numbers(found, "stability", "top"))}
        checks.append(
            check(
                "stability",
                f"agreement over {RUNS} seeds",
                changed,
                f"two runs at most {APART} of the values' norm apart on average",
                None if changed is None else changed <= APART,
                "Another seed gives nearly the same values.",
                "Another seed gives other reasons for the same decision: take more samples before anyone acts on one of them.",
                "There was nothing to compare.",
                interval=interval(distances),
                details={key: value for key, value in alike.items() if value is not None},
            )
        )
    fits = numbers(found, "stability", "r2")
    if fits:
        fit = mean(fits)
        assert fit is not None
        checks.append(
            check(
                "stability",
                "R2 of the local model",
                fit,
                f"at least {R2} on average",
                fit >= R2,
                "The simple model follows the decision near the sample; with few samples it does so by chance too, so look at the agreement over seeds.",
                "The simple model that is shown does not follow the decision near the sample, so its weights explain something else.",
                "",
                interval=interval(fits),
                details={"least": min(fits)},
            )
        )
    covered = numbers(found, "stability", "coverage")
    if covered:
        share = mean(covered)
        assert share is not None
        widths = numbers(found, "stability", "half_width")
        checks.append(
            check(
                "stability",
                "coverage of the intervals",
                share,
                f"at least {COVERAGE}, where 0.95 is promised",
                share >= COVERAGE,
                "Repeated runs differ by no more than the intervals of 95 % of the values say.",
                "Repeated runs differ by more than the intervals of the values say, so the values are less sure than they look.",
                "",
                interval=interval(covered),
                details={"widest half-width, as a share of the largest value": max(widths)} if widths else {},
            )
        )
    return checks
