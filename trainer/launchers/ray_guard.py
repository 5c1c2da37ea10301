"""Ends what is left of a Ray that a run has started, when that run's process goes away (even by SIGKILL).

`python -m trainer.launchers.ray_guard`: stdin is a pipe from the launcher, which writes there what it has
started. Ray's workers end with it by themselves; two of its agents outlive a launcher that was killed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any


def _psutil() -> Any:
    importlib.import_module("ray")  # brings psutil along and makes it importable
    return importlib.import_module("psutil")


@contextlib.contextmanager
def guarded() -> Iterator[Callable[[], None]]:
    """Yields a function to call once Ray has started; its processes then end with this one, or with the block."""
    guard = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, start_new_session=True)
    assert guard.stdin is not None
    pipe = guard.stdin

    def watch() -> None:
        children = [child for child in _psutil().Process().children(recursive=True) if child.pid != guard.pid]
        pipe.write(json.dumps([[child.pid, child.create_time()] for child in children]).encode())
        pipe.flush()

    try:
        yield watch
    finally:
        guard.communicate()


def end(started: list[tuple[int, float]]) -> None:
    """Kill the processes of these ids and start times that still run."""
    psutil = _psutil()
    for pid, when in started:
        with contextlib.suppress(psutil.Error):  # gone meanwhile
            process = psutil.Process(pid)
            if process.create_time() == when:
                process.kill()


if __name__ == "__main__":
    text = sys.stdin.read()
    if text:
        end(json.loads(text))
