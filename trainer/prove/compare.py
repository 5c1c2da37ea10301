"""How far two runs are apart: arithmetic on what they recorded, and nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from trainer.prove.trace import FINAL, INITIAL, Trace

LOSS_BAND = 1e-5
NORM_BAND = 1e-5
RATE_BAND = 1e-12
"""Rates are computed alike everywhere; only their way through an optimizer may round."""


def parameter_band(optimizer: str) -> float:
    """The band of the parameters' difference. SGD's is the narrower: adaptive optimizers divide by small numbers."""
    return 1e-4 if optimizer == "sgd" else 1e-3


class What:
    """Kinds of findings, in the order in which one causes the next within a step."""

    TIES, INITIAL, SAMPLES, LOSS, NORM, RATE, PARAMETERS, FROZEN, RANKS, BUFFERS = range(10)
    WORDS = (
        "the set of parameters",
        "initial values",
        "samples",
        "loss",
        "gradient norm",
        "learning rate",
        "parameters",
        "a frozen parameter",
        "ranks among each other",
        "a buffer",
    )
    MEASURED = (LOSS, NORM, PARAMETERS)
    """Compared within bands; the others exactly."""


@dataclass(frozen=True, order=True)
class Finding:
    """Something that differs, and in which step first."""

    step: int
    what: int
    name: str = field(default="", compare=False)
    """Of the parameter or buffer."""
    text: str = field(default="", compare=False)


@dataclass
class Apart:
    """How far a run is from the reference."""

    loss: float
    """Greatest relative difference over the steps."""
    grad_norm: float
    parameters: float
    """Greatest over the tensors, after the last step."""
    worst: str
    """The tensor of `parameters`."""
    bit_equal: bool
    """Every loss, norm and parameter has the same bits after every step."""
    steps: list[dict[str, float]]
    """loss, grad_norm and parameters of each step (parameters: from sketches, within about 9 %)."""
    findings: list[Finding]
    """Everything outside the bands, the first cause first."""


def relative(value: float, reference: float) -> float:
    """|value - reference| / |reference|; infinite where only one is 0, or one is not a number."""
    if value == reference:
        return 0.0
    difference = abs(value - reference)
    return difference / abs(reference) if reference and math.isfinite(difference) else math.inf


def rms(values: np.ndarray) -> float:
    """Root of the mean square, in fp64."""
    flat = values.reshape(-1).astype(np.float64)
    return math.sqrt(float(flat @ flat) / flat.size) if flat.size else 0.0


def whole_movement(names: Iterable[str], reference: Callable[[str], np.ndarray], initial: Callable[[str], np.ndarray]) -> float:
    """RMS over all elements of `names` of how far the reference has moved from the initial values."""
    total, count = 0.0, 0
    for name in names:
        moved = (reference(name).astype(np.float64) - initial(name)).reshape(-1)
        total, count = total + float(moved @ moved), count + moved.size
    return math.sqrt(total / count) if count else 0.0


def parameter_differences(
    names: Iterable[str], values: Callable[[str], np.ndarray], reference: Callable[[str], np.ndarray], initial: Callable[[str], np.ndarray]
) -> dict[str, float]:
    """For each tensor rms(a - b) / max(rms(b - initial), the whole model's RMS movement); b is the reference."""
    names = list(names)
    whole = whole_movement(names, reference, initial)
    apart = {}
    for name in names:
        b = reference(name).astype(np.float64)
        apart[name] = ratio(rms(values(name) - b), max(rms(b - initial(name)), whole))
    return apart


def final_differences(directory: Path, reference_directory: Path, trace: Trace, reference: Trace) -> dict[str, float]:
    """Differences of the whole trainable parameters after the last step, one tensor at a time in memory."""
    names = [name for name, trainable in zip(reference.names, reference.trainable, strict=True) if trainable and name in trace.names]
    with (
        safe_open(directory / FINAL, "np") as ours,
        safe_open(reference_directory / FINAL, "np") as theirs,
        safe_open(reference_directory / INITIAL, "np") as initial,
    ):

        def reader(file: Any) -> Callable[[str], np.ndarray]:
            return lambda name: file.get_tensor(name)

        return parameter_differences(names, reader(ours), reader(theirs), reader(initial))


def ratio(difference: float, movement: float) -> float:
    """difference / movement; 0 where nothing differs, infinite where something does and nothing moved."""
    if difference == 0.0:
        return 0.0
    return difference / movement if movement and math.isfinite(difference) else math.inf


def sketched_differences(trace: Trace, reference: Trace, step: int) -> dict[str, float]:
    """What `parameter_differences` gives, of the parameters after `step`, from sketches alone."""
    numel = np.array(reference.numel, dtype=np.float64)
    apart = np.sqrt((_rows(trace, reference, step) ** 2).sum(1) / numel)
    moved = ((reference.sketches[step] - reference.sketches[0]) ** 2).sum(1)
    trainable = np.array(reference.trainable)
    whole = math.sqrt(moved[trainable].sum() / numel[trainable].sum())
    per_tensor = np.sqrt(moved / numel)
    return {
        name: ratio(float(apart[i]), max(float(per_tensor[i]), whole))
        for i, name in enumerate(reference.names)
        if trainable[i] and trace.digests[step][trace.names.index(name)] != reference.digests[step][i]
    }


def _rows(trace: Trace, reference: Trace, step: int) -> np.ndarray:
    """Sketches of the difference, in the order of the reference's names."""
    order = [trace.names.index(name) for name in reference.names]
    return trace.sketches[step][order] - reference.sketches[step]


def compare(trace: Trace, reference: Trace, final: Mapping[str, float], optimizer: str, same_buffers: frozenset[str]) -> Apart:
    """Compare `trace` with `reference`.

    `final` is `parameter_differences` of the whole parameters after the last step; `same_buffers` are
    the buffers that the control run left alike (others depend on the micro-batches, and are only
    compared over the ranks).
    """
    band = parameter_band(optimizer)
    worst = max(final, key=lambda name: final[name], default="")
    steps: list[dict[str, float]] = []
    findings = _exact_findings(trace, reference, same_buffers)
    comparable = set(trace.names) == set(reference.names)
    first_outside: Finding | None = None
    for index, (ours, theirs) in enumerate(zip(trace.steps, reference.steps, strict=True)):
        step = index + 1
        apart = sketched_differences(trace, reference, step) if comparable else {}
        loss, norm = relative(ours.loss, theirs.loss), relative(ours.grad_norm, theirs.grad_norm)
        steps.append({"loss": loss, "grad_norm": norm, "parameters": max(apart.values(), default=0.0)})
        if loss > LOSS_BAND:
            findings.append(
                Finding(step, What.LOSS, "", f"loss {ours.loss:.7g} instead of {theirs.loss:.7g} (relative difference {loss:.1e}, band {LOSS_BAND:.0e})")
            )
        if norm > NORM_BAND:
            text = f"gradient norm {ours.grad_norm:.7g} instead of {theirs.grad_norm:.7g} (relative difference {norm:.1e}, band {NORM_BAND:.0e})"
            findings.append(Finding(step, What.NORM, "", text))
        outside = [name for name in reference.names if apart.get(name, 0.0) > band]
        if outside and first_outside is None:
            more = f", and {len(outside) - 1} more" if len(outside) > 1 else ""
            first_outside = Finding(
                step, What.PARAMETERS, outside[0], f"parameter {outside[0]} (relative difference {apart[outside[0]]:.1e}, band {band:.0e}{more})"
            )
    greatest = max(final.values(), default=0.0)
    if greatest > band:
        last = Finding(len(steps), What.PARAMETERS, worst, f"parameter {worst} (relative difference {greatest:.1e}, band {band:.0e})")
        findings.append(first_outside or last)
    return Apart(
        loss=max((step["loss"] for step in steps), default=0.0),
        grad_norm=max((step["grad_norm"] for step in steps), default=0.0),
        parameters=greatest,
        worst=worst,
        bit_equal=comparable and bit_equal(trace, reference),
        steps=steps,
        findings=sorted(findings),
    )


def measured_only(apart: Apart) -> bool:
    """Whether a numerically touchy run alone could explain the findings."""
    return all(finding.what in What.MEASURED for finding in apart.findings)


def bit_equal(trace: Trace, reference: Trace) -> bool:
    """Whether all losses, norms and parameters have the same bits."""
    parameters = len(reference.names) - len(reference.buffers)
    same_values = all(
        dict(zip(trace.names, ours, strict=True)).items() >= dict(zip(reference.names[:parameters], theirs[:parameters], strict=True)).items()
        for ours, theirs in zip(trace.digests, reference.digests, strict=True)
    )
    return same_values and all(a.loss == b.loss and a.grad_norm == b.grad_norm for a, b in zip(trace.steps, reference.steps, strict=True))


def _exact_findings(trace: Trace, reference: Trace, same_buffers: frozenset[str]) -> list[Finding]:
    """The first difference of each kind that no rounding explains."""
    findings: list[Finding] = []
    own, other = set(trace.names), set(reference.names)
    for name in [name for name in trace.names + reference.names if (name in own) != (name in other)][:1]:
        text = f"{name} is a parameter of its own here, and tied or absent there" if name in own else f"{name} is missing here"
        return [Finding(0, What.TIES, name, text)]
    if trace.split is not None:
        split = trace.split
        text = f"after step {split.step}, rank {', '.join(map(str, split.ranks))} holds other values of {split.name} than rank 0"
        findings.append(Finding(split.step, What.RANKS, split.name, text))
    ours = [dict(zip(trace.names, row, strict=True)) for row in trace.digests]
    theirs = [dict(zip(reference.names, row, strict=True)) for row in reference.digests]
    for name in [name for name in reference.names if ours[0][name] != theirs[0][name]][:1]:
        findings.append(Finding(0, What.INITIAL, name, f"initial values of {name}"))
    moved = [(step, name) for step in range(1, len(ours)) for name in reference.frozen if ours[step][name] != theirs[0][name]]
    for step, name in moved[:1]:
        findings.append(Finding(step, What.FROZEN, name, f"frozen parameter {name} has moved"))
    for index, (a, b) in enumerate(zip(trace.steps, reference.steps, strict=True)):
        if problem := _samples_differ(a.samples, b.samples):
            findings.append(Finding(index + 1, What.SAMPLES, "", problem))
            break
    for index, (a, b) in enumerate(zip(trace.steps, reference.steps, strict=True)):
        if relative(a.lr, b.lr) > RATE_BAND:
            findings.append(Finding(index + 1, What.RATE, "", f"learning rate {a.lr:.6g} instead of {b.lr:.6g}"))
            break
    found = [(step, name) for step in range(len(ours)) for name in sorted(same_buffers) if buffer_difference(trace, reference, step, name) > LOSS_BAND]
    for step, name in found[:1]:
        apart = buffer_difference(trace, reference, step, name)
        findings.append(Finding(step, What.BUFFERS, name, f"buffer {name} (relative difference {apart:.1e}, band {LOSS_BAND:.0e})"))
    return findings


def buffer_difference(trace: Trace, reference: Trace, step: int, name: str) -> float:
    """rms(a - b) / rms(b) of a buffer after `step`."""
    i, j = trace.names.index(name), reference.names.index(name)
    if trace.digests[step][i] == reference.digests[step][j]:
        return 0.0
    return ratio(rms(trace.sketches[step][i] - reference.sketches[step][j]), rms(reference.sketches[step][j]))


def _samples_differ(ours: list[list[str]], theirs: list[list[str]]) -> str | None:
    """How two global batches differ as multisets, in words; None where they do not."""
    a, b = Counter(item for rank in ours for item in rank), Counter(item for rank in theirs for item in rank)
    if a == b:
        return None
    missing, extra = (b - a).total(), (a - b).total()
    return f"{missing} of the {b.total()} samples of the global batch are missing, and {extra} are there that should not be"
