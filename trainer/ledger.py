"""ledger.jsonl: where a run's time went, over all its starts. One line a start; nothing here imports torch.

The line of a start that runs is written over in place, padded to one length, so that the file stays small and a
process that is killed leaves what it wrote last.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainer.doctor.record import process_start

LEDGER = "ledger.jsonl"
LINE_BYTES = 1024
PARTS = {
    "compute": "compute",
    "data": "waiting for data",
    "communication": "waiting for other ranks",
    "checkpoint": "checkpoints",
    "evaluation": "evaluation",
    "start_up": "start-up",
    "repeated": "steps done twice",
    "restart": "between a death and the next start",
    "end": "the end: last records and report",
}
"""What time is spent on, and how it is called. The parts sum to the wall time."""


@dataclass
class Start:
    """One start of a run, as rank 0 saw it. Times are seconds since 1970."""

    began: float
    """When its process began; of a later start in the same process, when that start did."""
    noted: float
    """When this was written last."""
    first_step: int
    taken: int
    """The last step whose results were read; `first_step` - 1 before any."""
    status: str = "running"
    """running (or killed: nobody was left to say so), failed, stopped or finished."""
    repeated_steps: int = 0
    """Steps that an earlier start had taken, beyond the checkpoint that this one began with."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By the names in `PARTS`."""

    def to_line(self) -> bytes:
        """As one line of `LINE_BYTES`."""
        values = asdict(self)
        values["seconds"] = {name: round(seconds, 6) for name, seconds in self.seconds.items()}
        return json.dumps(values).encode().ljust(LINE_BYTES - 1) + b"\n"


@dataclass
class Totals:
    """The starts of a run together."""

    starts: int = 0
    deaths: int = 0
    """Starts that were followed by another without having stopped or finished."""
    seconds: dict[str, float] = field(default_factory=dict)
    away: float = 0.0
    """Seconds between a stop that was asked for and the next start: not part of the wall time."""
    repeated_steps: int = 0

    @property
    def wall(self) -> float:
        """Seconds from the beginning of the first start to the last note, without `away`."""
        return sum(self.seconds.values())

    @property
    def effective(self) -> float:
        """Share of the wall time that went into computing steps that count."""
        return self.seconds.get("compute", 0.0) / self.wall if self.wall else 0.0


def read(run_dir: Path) -> list[Start]:
    """The starts of a run, oldest first; a line that a power cut left half written is passed over."""
    path = run_dir / LEDGER
    if not path.is_file():
        return []
    starts = []
    data = path.read_bytes()
    for line in (data[place : place + LINE_BYTES] for place in range(0, len(data), LINE_BYTES)):
        try:
            starts.append(Start(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return starts


def total(starts: Sequence[Start]) -> Totals:
    """Sum over the starts, and the time between them."""
    totals = Totals(starts=len(starts), seconds=dict.fromkeys(PARTS, 0.0))
    for index, start in enumerate(starts):
        for name, seconds in start.seconds.items():
            totals.seconds[name] += seconds
        totals.repeated_steps += start.repeated_steps
        if index:
            before = starts[index - 1]
            gap = max(0.0, start.began - before.noted)
            if before.status in ("running", "failed"):
                totals.deaths += 1
                totals.seconds["restart"] += gap
            else:
                totals.away += gap
    return totals


def process_began() -> float:
    """When this process began, in seconds since 1970; now, where the system does not say."""
    ticks = process_start(os.getpid())
    if ticks is None:
        return time.time()
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


_starts = itertools.count()  # of this process


def start_began() -> float:
    """To be called when a start begins: when that was, in seconds since 1970.

    With this process, if it is the first in it; else now: a later run of a sweep, or a run that goes back.
    """
    return process_began() if next(_starts) == 0 else time.time()
