"""Commands run as a person runs them: in a process of their own, in a directory of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

TINY = ["model.layers=1", "model.dim=16", "model.heads=2", "model.kv_heads=null", "data=synthetic", "data.seq_len=16", "train.global_batch_size=4"]
"""Overrides that make a run take a fraction of a second a step."""


@contextmanager
def without_privileges() -> Iterator[None]:
    """As a user who is not root, whom no permission holds back."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # nobody
    try:
        yield
    finally:
        os.seteuid(user)


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment(**extra: str) -> dict[str, str]:
    """This environment, with the checkout importable and one thread a process."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **extra}


def run(*arguments: str, cwd: Path, module: str = "trainer", timeout: float = 240, **extra: str) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS` in `cwd`; its output as text."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment(**extra), capture_output=True, text=True, timeout=timeout)


def run_without_torch(*arguments: str, cwd: Path, module: str = "trainer", **extra: str) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS` where importing torch fails: what must answer without it does."""
    code = "import runpy, sys; sys.modules['torch'] = None; sys.argv[0] = name = sys.argv.pop(1); runpy.run_module(name, run_name='__main__', alter_sys=True)"
    return subprocess.run([sys.executable, "-c", code, module, *arguments], cwd=cwd, env=environment(**extra), capture_output=True, text=True, timeout=60)
