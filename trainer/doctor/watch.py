"""Ends a run that has stood still for `run.stall_timeout` seconds, with the diagnosis."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from trainer.doctor.diagnose import Diagnosis, Kind
from trainer.doctor.examine import examine
from trainer.doctor.record import DIAGNOSIS, directory
from trainer.doctor.sight import Life, RankSight, look
from trainer.errors import EXIT_FAILED, RunError, run_again
from trainer.units import duration

POLL_SECONDS = 0.5
STILL_SECONDS = 5.0  # after so long without a change a rank also writes its stacks and its last collectives
FOLLOW_SECONDS = 10.0  # the rank that tells has this long at most, before the others end too


class Stalled(RunError):
    """The run stood still; starting again from the last checkpoint may help."""


def stalled(run_dir: Path, timeout: float) -> list[RankSight]:
    """All ranks, where none of those that have not ended has come further for `timeout` seconds; else nothing.

    Those that wait for others to come do not count.
    """
    seen = look(run_dir)
    acting = [sight for sight in seen if sight.life is not Life.ENDED and not sight.waits]
    return seen if acting and all(sight.life is Life.DEAD or sight.still >= timeout for sight in acting) else []


def finding(run_dir: Path, timeout: float, resume: str) -> Stalled:
    """Examine a run that stands still, print what is found, write it down, and give the error that ends the run.

    `resume` is its `checkpoint.resume`.
    """
    found, page = examine(run_dir, standing=True)
    sentence = stall_message(found, timeout, run_again(run_dir, resume))
    print(page, file=sys.stderr, flush=True)
    with suppress(OSError):  # a full disk: it has been printed
        (directory(run_dir) / DIAGNOSIS).write_text(f"{sentence}\n", encoding="utf-8")
    return Stalled(sentence)


def stall_message(found: Diagnosis, timeout: float, again: str) -> str:
    """What ended the run, in one sentence; `again` says how to go on."""
    cause = "no cause was found" if found.kind is Kind.HEALTHY else found.sentence
    since = f"no rank came further for {duration(timeout)} (run.stall_timeout={timeout:g})"
    return f"{cause}; {since}, so the run was ended; {again} to go on from the last checkpoint"


class Watch:
    """What a rank's recorder calls while the rank does not come further: the lowest rank that can tells, and all end their processes."""

    def __init__(self, run_dir: Path, rank: int, timeout: float, resume: str, tell: Callable[[int, RunError], None]):
        self._run_dir, self._rank, self._timeout, self._resume, self._tell = run_dir, rank, timeout, resume, tell
        self.patience = min(STILL_SECONDS, timeout / 2) if timeout else STILL_SECONDS
        """Seconds without a change from which on it is to be called."""

    def __call__(self, still: float) -> None:
        """The rank has not come further for `still` seconds."""
        if not self._timeout or still < self._timeout:
            return
        told = directory(self._run_dir) / DIAGNOSIS
        if not told.exists():  # by a rank that has ended meanwhile
            seen = stalled(self._run_dir, self._timeout)
            if not seen:
                return
            if self._rank == min((sight.rank for sight in seen if sight.life is Life.RUNNING and not sight.waits), default=self._rank):
                self._tell(self._rank, finding(self._run_dir, self._timeout, self._resume))
            else:
                _wait_for(told)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_FAILED)  # from this thread: the training thread stands in a call that does not return


def _wait_for(path: Path) -> None:
    end = time.monotonic() + FOLLOW_SECONDS
    while time.monotonic() < end and not path.exists():
        time.sleep(POLL_SECONDS)
    time.sleep(POLL_SECONDS)  # what follows it, the error for the launcher, comes at once
