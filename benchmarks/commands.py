"""Commands as a person gives them, with their wall time, CPU time and the marks that their ranks leave."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.stamps import PATH, STEPS
from benchmarks.work import RANKS, environment


@dataclass(frozen=True)
class Used:
    """What a command took, its children included where they were waited for."""

    wall: float
    cpu: float
    status: int


def run_timed(command: list[str], env: dict[str, str], log: Path) -> Used:
    """Run `command` to its end; its output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=log.parent, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    return Used(wall, usage.ru_utime + usage.ru_stime, process.returncode)


def run_quietly(command: list[str], env: dict[str, str], log: Path) -> Used:
    """`run_timed`, for a command that must succeed.

    Raises:
        RuntimeError: it did not; with the end of its output.
    """
    used = run_timed(command, env, log)
    if used.status != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])
        raise RuntimeError(f"{' '.join(command)} ended with {used.status}:\n{tail}")
    return used


@dataclass(frozen=True)
class Training:
    """One command that trains, as its ranks saw it."""

    first_step: float
    """Seconds from the command to the end of the first step on all ranks."""
    step: float
    """Mean seconds of a step on rank 0 after the first `WARM_UP` ones."""
    peak: int
    """Bytes resident at most, of the rank that had the most."""


WARM_UP = 10


def run_training(command: list[str], steps: int, log: Path, **more: str) -> Training:
    """Run a command whose ranks call `benchmarks.stamps.install`."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        marks = Path(directory)
        start = time.time()  # of the system: ranks are other processes
        run_quietly(command, environment(**{PATH: str(marks), STEPS: str(steps)}, **more), log)
        ranks = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(marks.glob("rank-*.json"))]
    if len(ranks) != RANKS:
        raise RuntimeError(f"{' '.join(command)}: {len(ranks)} of {RANKS} ranks told of their steps; see {log}")
    times = ranks[0]["times"]
    mean = (times[-1] - times[WARM_UP - 1]) / (len(times) - WARM_UP)
    return Training(max(rank["times"][0] for rank in ranks) - start, mean, max(rank["peak"] for rank in ranks))
