"""All checks of one explainer: what is measured on one sample, wherever it is explained, and what that shows together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trainer.explain.base import Explainer, Kind
from trainer.explain.case import Attribution, Case
from trainer.explain.decisions import Decisions, kind_of
from trainer.explain.evidence import budget, faithfulness, sanity, sensitivity, stability, text, truth
from trainer.explain.evidence.check import Check, Found, mean
from trainer.materialise import stable_seed


def measured(explainer: Explainer, decisions: Decisions, case: Case, attribution: Attribution, seed: int) -> dict[str, Any]:
    """What the checks find on one sample, as plain data; a pure function of its arguments.

    case: `decisions.case(case.seed)`; attribution: `explainer.explain(case, seed)`. It costs at most `budget.most`, and tells what it did.
    """
    kind = kind_of(decisions.samples.spec)
    found: dict[str, Any] = {
        "units": len(case),
        "kind": kind.name,
        "claims": {"shapley": explainer.is_shapley(), "additive": explainer.is_additive(), "random": explainer.is_random()},
        "finite": bool(attribution.values.isfinite().all()),
    }
    if not found["finite"] or not len(case):
        return found
    count = budget.Counter()
    generator = torch.Generator().manual_seed(stable_seed("evidence", seed, case.seed))
    counted = count.of(case)
    found["truth"] = truth.measured(counted, attribution)
    found["faithfulness"] = faithfulness.measured(counted, attribution.values, generator)
    if kind is Kind.text and found["faithfulness"]:
        found["text"] = text.measured(counted, attribution.values, generator)
    coalitions = count.inputs
    found["stability"] = stability.measured(explainer, counted, attribution, seed)
    found["sensitivity"] = sensitivity.measured(explainer, counted, attribution, seed, generator)
    found["sanity"] = sanity.measured(explainer, decisions, case, attribution, seed, count)
    found["inputs"] = {"all": count.inputs, "coalitions": coalitions}
    return found


def judged(found: Sequence[Found]) -> list[Check]:
    """What `measured` has found on all samples, in their order, as the lines of the evidence for one explainer."""
    broken = [one for one in found if not one["finite"]]
    held = [one for one in found if one["finite"] and one["units"]]
    checks = [
        Check(
            "truth",
            "finite values",
            float(len(broken)),
            "no sample with a value that is not a number",
            not broken,
            "Some values are no numbers, so these decisions are not explained at all; the other checks leave them out."
            if broken
            else "All values are numbers.",
        )
    ]
    if not held:
        return checks
    checks += [*truth.judged(held), *faithfulness.judged(held), *stability.judged(held), *sanity.judged(held)]
    costs = [one["inputs"]["all"] for one in held]
    average = mean(costs)
    return [
        *checks,
        Check("cost", "inputs through the model for a sample's evidence", average, "nothing", None, f"What these checks took on each of {len(held)} samples."),
    ]
