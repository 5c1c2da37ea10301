"""What the rows say together, and what to do where they cannot say it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.prove.cells import Row
from trainer.prove.compare import Apart, measured_only, parameter_band
from trainer.prove.reference import Reference
from trainer.prove.trace import Trace

ROUNDED = 1e-4
"""Parameters that move by less than this share of themselves are moved in steps of few roundings of fp32."""
STILL = 1e-7
"""Below this they do not move at all."""


@dataclass
class Verdict:
    """Of the whole proof."""

    word: str
    """equal, different, failed or inconclusive."""
    lines: list[str]
    """Why, and what to do."""

    @property
    def proved(self) -> bool:
        """Whether every strategy that can run trains like one process."""
        return self.word == "equal"


def soften(rows: list[Row], control: Row) -> None:
    """Where the control itself is outside the bands, a measured difference says nothing about a strategy."""
    touchy = {name for name, apart in control.optimizers.items() if apart.findings}
    for row in [*rows, control]:
        outside = {name for name, apart in row.optimizers.items() if apart.findings} | {name for name, resumed in row.resumed.items() if resumed.problem}
        measured = all(map(measured_only, row.optimizers.values())) and not any(resumed.wrong for resumed in row.resumed.values())
        if row.status == "different" and measured and outside <= touchy:
            row.status = "inconclusive"


def conclude(rows: list[Row], control: Row, reference: Reference, named: list[str] | None) -> Verdict:
    """The verdict; `named` are the strategies that were asked for by name."""
    lines = [f"{row.strategy} on {ranks(row.ranks)}: {row.reason}" for row in rows if row.status in ("different", "failed")]
    advice = [line for name, apart in control.optimizers.items() if apart.findings for line in advise(name, apart, reference)]
    loose = [
        f"under {name}, the clip binds in {clip['bound_steps']} of {len(reference.traces[name].steps)} steps only: use fewer (prove.steps)"
        for name, clip in reference.clips.items()
        if clip["bound_steps"] < len(reference.traces[name].steps)
    ]
    loose += [
        f"under {name}, parameters move by {movement(trace):.0e} of themselves, less than fp32 can tell: use a higher rate ({_rate_key(name, reference)})"
        for name, trace in reference.traces.items()
        if movement(trace) < STILL
    ]
    idle = [name for name in named or [] if not any(row.strategy == name and row.optimizers for row in rows)]
    missing = [f"{name}: ran on no number of ranks: {next(row.reason for row in rows if row.strategy == name)}" for name in idle]
    if not any(row.optimizers for row in rows) and not missing:
        missing = ["no strategy ran"]
    if any(row.status == "different" for row in rows):
        return Verdict("different", lines + advice)
    if lines or idle:
        return Verdict("failed", lines + [line for line in missing if line not in lines] + advice)
    if advice or loose or missing:
        return Verdict("inconclusive", advice + loose + missing)
    return Verdict("equal", [])


def advise(optimizer: str, apart: Apart, reference: Reference) -> list[str]:
    """What to change where one process with other micro-batches is outside the bands itself."""
    first = apart.findings[0]
    optim = reference.optimizers[optimizer]
    what = f"under {optimizer}, one process with its micro-batches regrouped is itself outside the bands, at step {first.step}: {first.text}"
    rate = _rate_key(optimizer, reference)
    good = first.step - 1
    for index, step in enumerate(apart.steps):
        if step["parameters"] > parameter_band(optim.name.name):
            good = min(good, index)
            break
    fewer = f"fewer steps (prove.steps={good}), " if good > 0 else ""
    barely = movement(reference.traces[optimizer]) < ROUNDED
    other = (
        f"a higher rate, for parameters move so little that rounding shows ({rate}={optim.lr * 100:.1g})"
        if barely
        else f"a lower rate ({rate}={optim.lr / 10:.1g})"
    )
    return [f"{what}. Try {'' if barely else fewer}{other}, or train.precision=fp64 (for the torch strategies: single, ddp, fsdp, hsdp)"]


def _rate_key(optimizer: str, reference: Reference) -> str:
    return "prove.sgd_lr" if optimizer == next(iter(reference.optimizers)) else "optim.lr"


def movement(trace: Trace) -> float:
    """How far all parameters have moved, as a share of themselves."""
    start = trace.sketches[0][trace.trainable]
    return float(np.linalg.norm(trace.sketches[-1][trace.trainable] - start) / np.linalg.norm(start))


def ranks(number: int) -> str:
    """ "1 rank", "2 ranks"."""
    return f"{number} rank" + ("s" if number > 1 else "")
