"""What is seen of the ranks' processes, beside what they have written."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from trainer.doctor.record import RankRecord, live_path, oom_kills, process_start, process_state, read
from trainer.run_lock import machine
from trainer.whereabouts import Phase, Whereabouts

SILENT_INTERVALS = 10
"""A rank that has not written for so many of its intervals cannot."""
LEAST_STILL = 5.0
STILL_STEPS = 3
BEFORE_ALL_ARE_HERE = ("", Phase.START_UP, Phase.MEETING)


class Life(StrEnum):
    """The state of a rank's process."""

    RUNNING = "running"
    STOPPED = "stopped"
    """By SIGSTOP, or a debugger."""
    DEAD = "dead"
    SILENT = "silent"
    """It runs, as far as can be seen from here, but has ceased to write."""
    ENDED = "ended"
    """With a word: finished, stopped as asked, or failed."""


@dataclass(frozen=True)
class RankSight:
    """A rank as it is seen from here, now."""

    record: RankRecord
    life: Life
    still: float
    """Seconds for which it has not come further."""
    here: bool
    """Whether its process is on this machine, and not in a container with process ids of its own."""
    oom_killed: bool
    """Whether the kernel has ended some process of this container for lack of memory since the rank began."""

    @property
    def rank(self) -> int:
        return self.record.rank

    @property
    def waits(self) -> bool:
        """Whether it waits, in good health, for others to come."""
        return self.record.phase == Phase.MEETING and self.life in (Life.RUNNING, Life.SILENT)

    @property
    def stands(self) -> bool:
        """Whether it has not come further for longer than its steps take."""
        return self.still >= max(LEAST_STILL, STILL_STEPS * self.record.step_seconds)


def look(run_dir: Path) -> list[RankSight]:
    """The ranks of a run as they are now; those left by an earlier start, whose successor has not begun yet, are passed over."""
    records, now, own, kills = read(run_dir), time.time(), machine(), oom_kills()
    for record in records.values():
        if record.machine == own:
            with suppress(OSError, ValueError):  # as of the record, then
                step, phase = Whereabouts.read(live_path(run_dir, record.rank))
                record.step, record.phase = step, str(phase)
    newest = max(records.values(), key=lambda record: record.started, default=None)
    # Past their meeting all ranks of a start have a record of their own, also one that was killed before its second.
    begun = newest.started if newest is not None and newest.phase in BEFORE_ALL_ARE_HERE else 0.0
    seen = []
    for record in records.values():
        here = record.machine == own
        life = _life(record, now, here)
        if life in (Life.DEAD, Life.ENDED) and record.written < begun:
            continue
        # A rank that writes is judged by its own clock.
        still = now - record.changed if life in (Life.STOPPED, Life.SILENT) else record.written - record.changed
        killed = here and kills is not None and record.oom_kills is not None and kills > record.oom_kills
        seen.append(RankSight(record, life, still, here, killed))
    return seen


def _life(record: RankRecord, now: float, here: bool) -> Life:
    if record.ended is not None:
        return Life.ENDED
    if here and record.process_start is not None:
        state = process_state(record.pid)
        if state is None or state in "ZX" or process_start(record.pid) != record.process_start:
            return Life.DEAD
        if state in "Tt":
            return Life.STOPPED
    return Life.SILENT if now - record.written > SILENT_INTERVALS * record.interval else Life.RUNNING
