"""All processes of a run, however they were started: they have inherited a mark in their environment. Linux only."""

from __future__ import annotations

import os
import signal
import time
import uuid
from contextlib import suppress
from pathlib import Path

from trainer.doctor.record import process_state

MARK = "TRAINER_DRILL"
PROC = Path("/proc")


def new_mark() -> str:
    """A value of `MARK` that no other process has."""
    return uuid.uuid4().hex


def has(pid: int, mark: str) -> bool:
    """Whether this process runs and has this mark; a dead one whose parent has not looked yet does not count."""
    try:
        environment = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:  # it has ended since, or is somebody else's
        return False
    return f"{MARK}={mark}".encode() in environment and process_state(pid) not in ("Z", "X", None)


def marked(mark: str) -> list[int]:
    """Ids of the processes that run and have this mark."""
    return sorted(int(path.name) for path in PROC.iterdir() if path.name.isdigit() and has(int(path.name), mark))


def left_after(mark: str, seconds: float) -> list[int]:
    """The marked processes that still run after so long; returns earlier when there is none."""
    end = time.monotonic() + seconds
    while (found := marked(mark)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def end_all(mark: str) -> None:
    """End every marked process, also those that they start meanwhile."""
    while found := marked(mark):
        for pid in found:
            send(pid, signal.SIGKILL)
        time.sleep(0.02)


def send(pid: int, number: int) -> bool:
    """Send a signal; whether the process was still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def command_line(pid: int) -> str:
    """How a process was started; "" when it has ended."""
    with suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""
