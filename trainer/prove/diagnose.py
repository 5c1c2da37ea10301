"""What the numbers say about the cause of a difference. Guesses end with a question mark."""

from __future__ import annotations

import math

import numpy as np

from trainer.prove.compare import RATE_BAND, Finding, What, relative
from trainer.prove.trace import Trace

CLOSE = 1e-3
"""Relative: as near as a measured factor has to be to a whole number."""


def diagnose(finding: Finding, trace: Trace, reference: Trace, accumulation: int) -> str:
    """A sentence on what would cause the first finding; empty where the numbers point nowhere.

    `accumulation`: micro-batches that each rank takes in a step.
    """
    if told := _hyperparameters(trace, reference):
        return told
    ranks = len(trace.steps[0].samples)
    step = max(finding.step, 1)
    ours, theirs = trace.steps[step - 1], reference.steps[step - 1]
    match finding.what:
        case What.SAMPLES:
            return _samples(ours.samples, theirs.samples, accumulation)
        case What.LOSS if finding.step == 1:
            return _factor("the loss", ours.loss / theirs.loss, ranks, accumulation) or _uneven(ours.counts)
        case What.NORM if theirs.grad_norm:
            return _factor("gradients", ours.grad_norm / theirs.grad_norm, ranks, accumulation) or _uneven(ours.counts)
        case What.RATE:
            return _rate(step, ours.lr, [item.lr for item in reference.steps])
        case What.PARAMETERS | What.RANKS if finding.step > 0:
            return _update(trace, reference, step, ranks)
        case What.RANKS:
            return "initial values depend on the rank?"
        case What.FROZEN:
            return "its gradient is used, or weight decay reaches it?"
        case What.BUFFERS:
            return "not averaged over the ranks?"
    return ""


def _hyperparameters(trace: Trace, reference: Trace) -> str:
    """A setting of the optimizer that has a value here which the reference's has in no group."""
    for key in sorted({key for group in reference.hyperparameters for key in group}):
        ours, theirs = ({repr(group[key]) for group in side.hyperparameters if key in group} for side in (trace, reference))
        if ours and ours != theirs:
            return f"the optimizer's {key} is {' and '.join(sorted(ours))} instead of {' and '.join(sorted(theirs))}"
    return ""


def _samples(ours: list[list[str]], theirs: list[list[str]], accumulation: int) -> str:
    if len(ours) > 1 and all(sorted(rank) == sorted(ours[0]) for rank in ours):
        return "every rank is fed the same samples"
    missing = {item for rank in theirs for item in rank} - {item for rank in ours for item in rank}
    fed, wanted = sum(map(len, ours)), sum(map(len, theirs))
    if fed < wanted and accumulation > 1 and (wanted - fed) * accumulation == wanted:
        return f"each rank leaves out one of its {accumulation} micro-batches"
    return f"{len(missing)} samples are fed to no rank" if fed == wanted else f"{fed} samples are fed instead of {wanted}"


def _factor(what: str, factor: float, ranks: int, accumulation: int) -> str:
    """`factor` in words, if it is one that a mistake in averaging gives."""
    if not math.isfinite(factor) or factor <= 0:
        return ""
    causes = []
    for number, over in [(ranks, "the number of ranks (summed, not averaged?)"), (accumulation, "the number of micro-batches (accumulation not divided?)")]:
        if number > 1 and relative(factor, number) < CLOSE:
            causes.append(f"multiplied by {over}")
    for number, over in [(ranks, "the number of ranks (averaged twice?)"), (accumulation, "the number of micro-batches (divided twice?)")]:
        if number > 1 and relative(factor, 1 / number) < CLOSE:
            causes.append(f"divided by {over}")
    if causes:
        return f"{what}: off by a factor of {factor:.3f}: {', or '.join(causes)}"
    for number in (2, 3, 4, 8):
        if relative(factor, number) < CLOSE or relative(factor, 1 / number) < CLOSE:
            return f"{what}: off by a factor of {factor:.3f}"
    return ""


def _uneven(counts: list[int]) -> str:
    if len(set(counts)) > 1:
        return f"ranks hold unequal numbers of valid elements ({', '.join(map(str, counts))}): a mean on each rank instead of over the global batch?"
    return ""


def _rate(step: int, lr: float, rates: list[float]) -> str:
    for index, other in enumerate(rates):
        if relative(lr, other) <= RATE_BAND:
            times = f": the scheduler is stepped {(index + 1) // step} times a step?" if (index + 1) % step == 0 and index + 1 > step else ""
            return f"it is the rate of step {index + 1}{times}"
    return ""


def _update(trace: Trace, reference: Trace, step: int, ranks: int) -> str:
    """Compares the last update of the whole model with the reference's: its direction and its length."""
    if set(trace.names) != set(reference.names):
        return ""
    order = [trace.names.index(name) for name in reference.names]
    ours = (trace.sketches[step] - trace.sketches[step - 1])[order][reference.trainable]
    theirs = (reference.sketches[step] - reference.sketches[step - 1])[reference.trainable]
    length, other = float(np.sqrt((ours**2).sum())), float(np.sqrt((theirs**2).sum()))
    if not length or not other:
        return "nothing moves" if other else ""
    cosine, factor = float((ours * theirs).sum()) / (length * other), length / other
    if cosine > 1 - 1e-4 and relative(factor, 1.0) > CLOSE:
        whose = (
            "clipping by a norm that is not the global one, or by another max_norm?" if relative(factor, ranks) > CLOSE else "scaled by the number of ranks?"
        )
        return f"the update has the right direction and {factor:.4g} times the right length: {whose}"
    decayed = [
        name
        for name, row, base in zip(np.array(reference.names)[reference.trainable], ours, theirs, strict=True)
        if not np.allclose(row, base, rtol=CLOSE, atol=0)
    ]
    return f"the update has {factor:.4g} times the right length and a cosine of {cosine:.4f} with the right one; {len(decayed)} of {len(ours)} tensors differ"
