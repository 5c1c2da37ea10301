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
    split = trace.split
    if finding.what in What.MEASURED and split is not None and split.step <= finding.step:
        return f"after step {split.step} the ranks hold different values of {split.name}: gradients are not exchanged, or ranks step differently?"
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
        case What.RANKS if finding.name in trace.buffers:
            return "buffers are not averaged over the ranks?"
        case What.RANKS if finding.step > 0:
            return "gradients are not exchanged, or ranks step differently?"
        case What.PARAMETERS:
            return _update(trace, reference, step)
        case What.RANKS:
            return "initial values depend on the rank?"
        case What.FROZEN:
            return "its gradient is used, or weight decay reaches it?"
        case What.BUFFERS:
            return "not averaged over the ranks?"
    return ""


def _hyperparameters(trace: Trace, reference: Trace) -> str:
    """The first setting of the optimizer that is not the reference's."""
    ours, theirs = trace.hyperparameters, reference.hyperparameters
    keys = sorted({key for settings in theirs.values() for key in settings})
    if ours.keys() == theirs.keys():
        for key in keys:
            other = [name for name in theirs if ours[name].get(key) != theirs[name].get(key)]
            if other:
                more = f" and {len(other) - 1} more" if len(other) > 1 else ""
                return f"the optimizer's {key} for {other[0]}{more} is {ours[other[0]].get(key)} instead of {theirs[other[0]].get(key)}"
        return ""
    for key in keys:
        here, there = ({repr(settings[key]) for settings in side.values() if key in settings} for side in (ours, theirs))
        if here and here != there:
            return f"the optimizer's {key} is {' and '.join(sorted(here))} instead of {' and '.join(sorted(there))}"
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
        return f"the ranks' batches count {' and '.join(map(str, counts))}: where all is well with equal counts, a mean is taken on each rank, not over all"
    return ""


def _rate(step: int, lr: float, rates: list[float]) -> str:
    for index, other in enumerate(rates):
        if relative(lr, other) <= RATE_BAND:
            times = f": the scheduler is stepped {(index + 1) // step} times a step?" if (index + 1) % step == 0 and index + 1 > step else ""
            return f"it is the rate of step {index + 1}{times}"
    return ""


def _update(trace: Trace, reference: Trace, step: int) -> str:
    """Compares the step's update of every tensor with the reference's: its direction and its length."""
    if set(trace.names) != set(reference.names):
        return ""
    order = [trace.names.index(name) for name in reference.names]
    ours = (trace.sketches[step] - trace.sketches[step - 1])[order][reference.trainable]
    theirs = (reference.sketches[step] - reference.sketches[step - 1])[reference.trainable]
    lengths, others = np.sqrt((ours**2).sum(1)), np.sqrt((theirs**2).sum(1))
    if not lengths.any():
        return "nothing moves"
    names = np.array(reference.names)[reference.trainable]
    differing = np.sqrt(((ours - theirs) ** 2).sum(1)) > CLOSE * others
    if not differing.any():
        return ""
    cosines = (ours * theirs).sum(1) / np.maximum(lengths * others, np.finfo(float).tiny)
    factors = lengths / np.maximum(others, np.finfo(float).tiny)
    longer = factors[differing & (cosines > 1 - 1e-6) & (abs(factors - 1) > 10 * CLOSE)]  # without weight decay, or far more gradient than that
    after = "loss and gradient norm agree, so the cause lies after them: clip, rate, weight decay or the optimizer's state"
    if len(longer) > 1 and longer.max() < longer.min() * (1 + 10 * CLOSE):
        return f"{after}. Updates have the right direction but {np.median(longer):.3g} times the right length: another clip than by the global norm?"
    which = f"only {', '.join(names[differing])}" if differing.sum() < min(5, len(names)) else f"{differing.sum()} of {len(names)} tensors"
    return f"{after}. In this step's update {which} differ" + ("s" if differing.sum() == 1 else "")
