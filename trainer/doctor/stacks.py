"""The ranks' Python stacks: faulthandler writes them to a file, on a signal or when a rank sees itself stand still."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from trainer.doctor.record import STACKS_SIGNAL, stacks_path
from trainer.doctor.sight import Life, RankSight

ANSWER_SECONDS = 2.0
QUIET_SECONDS = 0.1
POLL_SECONDS = 0.02
IDLE = ("trainer/doctor/", "trainer/launchers/child.py", "concurrent/futures/thread.py", "tqdm/_monitor.py")
"""Threads whose innermost or outermost frame is here have nothing to do with a hang: the recorder's, and those that wait for work."""


def collect(run_dir: Path, seen: Sequence[RankSight]) -> dict[int, str]:
    """The stacks of each rank that has any: fresh of processes on this machine, else as they were when the rank saw itself stand still."""
    asked = {sight.rank: _ask(stacks_path(run_dir, sight.rank), sight) for sight in seen}
    stacks = {rank: _answer(stacks_path(run_dir, rank), start) for rank, start in asked.items()}
    return {rank: text for rank, text in stacks.items() if text}


def _ask(path: Path, sight: RankSight) -> int | None:
    """Ask for the stacks; returns where in the file the answer will begin, or None where none will come."""
    if not sight.here or sight.life not in (Life.RUNNING, Life.SILENT):  # a stopped process cannot answer
        return None
    if sight.record.process_start is None:  # nobody knows whether the process id is still the rank's: the signal would end another program
        return None
    with suppress(OSError):  # gone meanwhile; or another user's; or the file is gone
        size = path.stat().st_size
        os.kill(sight.record.pid, STACKS_SIGNAL)
        return size
    return None


def _answer(path: Path, start: int | None) -> str:
    with suppress(OSError):  # without the stacks of one rank the rest is told
        if start is not None:
            _wait_for_more(path, start)
        data = path.read_bytes()
        return relevant((data[start:] or data).decode(errors="replace"))
    return ""


def _wait_for_more(path: Path, start: int) -> None:
    end = time.monotonic() + ANSWER_SECONDS
    size = start
    while time.monotonic() < end:
        time.sleep(QUIET_SECONDS if size > start else POLL_SECONDS)
        before, size = size, path.stat().st_size
        if size == before > start:
            break


def relevant(text: str) -> str:
    """`text` without the threads that are idle."""
    threads = [part.strip() for part in re.split(r"\n(?=(?:Current thread|Thread) 0x)", text.strip())]
    kept = [part for part in threads if not any(name in line for line in part.splitlines()[1:2] for name in IDLE) and "doctor/recorder.py" not in part]
    return "\n".join(kept)
