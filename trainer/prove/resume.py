"""What a cell's checkpoint is worth: written in the middle of a run, and gone on from."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from trainer.prove.compare import Apart, compare, final_differences, measured_only, parameter_band
from trainer.prove.trace import CROSSED, RESUMED, SAVED, Trace


@dataclass
class Resumed:
    """How far apart saving and resuming leave a run."""

    saved: float
    """Greatest difference of a tensor of the checkpoint from what one process wrote after the same step."""
    own_bit_equal: bool
    """Gone on from its own checkpoint, it takes the same steps, bit for bit."""
    crossed: Apart
    """Gone on from one process's checkpoint, against one process that was not interrupted."""
    wrong: list[str] = field(default_factory=list)
    """What no rounding explains, in words."""
    outside: list[str] = field(default_factory=list)
    """What is outside the bands, in words."""

    @property
    def problem(self) -> str:
        """The first of them, or ""."""
        return next(iter([*self.wrong, *self.outside]), "")


def judge(directory: Path, reference: Path, trace: Trace, base: Trace, step: int, optimizer: str, same_buffers: frozenset[str]) -> Resumed:
    """Judge what a cell wrote to `directory`; `trace` is its uninterrupted run, `base` that of one process, in `reference`."""
    own = Trace.load(directory / RESUMED).after(trace, step)
    crossed = Trace.load(directory / CROSSED).after(base, step)
    final = final_differences(directory / CROSSED, reference, crossed, base)
    apart = compare(crossed, base, final, optimizer, same_buffers)
    saved = json.loads((directory / SAVED).read_text(encoding="utf-8"))
    compared = {name: value for name, value in saved.items() if name.removeprefix("model.") not in set(base.buffers) - same_buffers}
    worst = max(compared, key=lambda name: math.inf if compared[name] is None else compared[name])
    greatest = math.inf if compared[worst] is None else compared[worst]
    wrong, outside = [], []
    told = f"its checkpoint of step {step} is not what one process writes: {worst}"
    if math.isinf(greatest):
        wrong.append(f"{told} is missing, unknown, of another form or not finite")
    elif greatest > parameter_band(optimizer):
        outside.append(f"{told} differs by {greatest:.1e}")
    if first := first_difference(own, trace):
        wrong.append(f"gone on from its own checkpoint of step {step}, it is not bit-equal to the uninterrupted run: {first}")
    if changed := _differing(crossed, base, step):
        wrong.append(f"reading one process's checkpoint of step {step} gave other values of {changed}")
    if apart.findings:
        finding = apart.findings[0]
        told = f"gone on from one process's checkpoint of step {step}, it differs first at step {finding.step}: {finding.text}"
        (outside if measured_only(apart) else wrong).append(told)
    return Resumed(greatest, first == "", apart, wrong, outside)


def first_difference(trace: Trace, uninterrupted: Trace) -> str:
    """Where two runs of one cell differ first in bits, in words; "" where they do not."""
    for index in range(len(uninterrupted.digests)):
        if index:
            ours, theirs = trace.steps[index - 1], uninterrupted.steps[index - 1]
            for word, a, b in [
                ("samples", ours.samples, theirs.samples),
                ("rate", ours.lr, theirs.lr),
                ("loss", ours.loss, theirs.loss),
                ("gradient norm", ours.grad_norm, theirs.grad_norm),
            ]:
                if a != b:
                    return f"{word} of step {index}" + (f" ({a!r} instead of {b!r})" if isinstance(a, float) else "")
        if name := _differing(trace, uninterrupted, index):
            return f"{name} after step {index}"
    return ""


def _differing(trace: Trace, other: Trace, step: int) -> str:
    """The first tensor of `other` that `trace` holds with other bits after `step`, or ""."""
    ours = dict(zip(trace.names, trace.digests[step], strict=True))
    return next((name for name, digest in zip(other.names, other.digests[step], strict=True) if ours.get(name) != digest), "")
