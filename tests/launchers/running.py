"""Runs of `Trouble` as a person starts them, and what is left of them afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.commands import ROOT, TINY, environment

PARTS = Path(__file__).parent / "parts"
# Saves do not overlap: a kill then finds the checkpoints that are due.
TROUBLE = ["--config-dir", str(PARTS / "configs"), "model=trouble", *TINY, "eval.at_end=false", "model.sample_tokens=1", "checkpoint.overlap=false"]


def start(*arguments: str, cwd: Path, python: tuple[str, ...] = ("-m", "trainer"), **extra: str) -> subprocess.Popen[str]:
    """`python -m trainer` on the tiny model, in a process group of its own, as a terminal would."""
    path = os.pathsep.join([str(PARTS), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, *python, *TROUBLE, *arguments],
        cwd=cwd,
        env={**environment(), "PYTHONPATH": path, **extra},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 200) -> tuple[int, str, str]:
    """(exit status, stdout, stderr)."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            child.kill()
        raise
    return process.returncode, out, err


def run(*arguments: str, cwd: Path, python: tuple[str, ...] = ("-m", "trainer"), **extra: str) -> tuple[int, str, str]:
    return finish(start(*arguments, cwd=cwd, python=python, **extra))


def losses(run_dir: Path) -> list[tuple[int, float, float]]:
    """(step, loss, gradient norm) of each committed step."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows]


def first_steps(run_dir: Path) -> list[int]:
    """Where each start of the run began."""
    return [session["first_step"] for session in json.loads((run_dir / "run.json").read_text())["sessions"]]


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        assert process is None or process.poll() is None, f"ended: {process.communicate()}"
        time.sleep(0.02)


def steps_done(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def left(processes: list[psutil.Process]) -> list[str]:
    """Command lines of those that still run."""
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.NoSuchProcess:
            continue
    return found
