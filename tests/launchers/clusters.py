"""Ray clusters on this machine, as `ray start` makes them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.commands import environment

RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@contextmanager
def machine(*arguments: str) -> Iterator[psutil.Process]:
    """A machine of a cluster (`ray start ARGUMENTS`), once it runs."""
    env = environment(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")  # else a token in the home directory decides
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    command = [*RAY, "start", *arguments, "--node-ip-address=127.0.0.1", "--object-store-memory=100000000", "--block"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            assert any("Ray runtime started" in line for line in process.stdout)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.communicate(timeout=60)


def lose(process: psutil.Process) -> None:
    """Everything on that machine ends at once."""
    for child in [process, *process.children(recursive=True)]:
        child.kill()
