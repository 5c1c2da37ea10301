"""Where the ranks of a run meet. They wait for one another in Python, which hears a signal; within PyTorch's own waits none is."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence

import torch.distributed as dist

from trainer.errors import RunError, Stopped

ARRIVED, TOLD, VERDICT = "arrived", "told", "verdict"
GO, STOP = "go", "stop"
FAREWELL_SECONDS = 2.0  # for the others to read the verdict


def reach(host: str, port: int, seconds: float, asked: Sequence[int]) -> None:
    """Return once something listens at `host`:`port`.

    Raises:
        RunError: nothing did for `seconds`.
        Stopped: `asked` became non-empty first.
    """

    def listens() -> bool:
        nonlocal told
        try:
            socket.create_connection((host, port), timeout=5.0).close()
        except OSError as error:
            told = str(error)
            return False
        return True

    told = ""
    if not _wait(listens, seconds, asked):
        if asked:
            raise stopped()
        raise RunError(f"could not reach the other processes at {host}:{port} ({told}, for {seconds:g} s)")


def meet(store: dist.Store, rank: int, world_size: int, seconds: float, asked: Sequence[int]) -> None:
    """Return once all `world_size` ranks have called this with `store`, on each of them, or on none. The store may end with rank 0.

    Raises:
        RunError: some had not come after `seconds`.
        Stopped: some rank's `asked` became non-empty first; every rank then raises it.
    """
    here = dist.PrefixStore("meeting", store)
    if here.add(ARRIVED, 1) == world_size:
        here.compare_set(VERDICT, "", GO)
    elif not _wait(lambda: here.check([VERDICT]), seconds, asked, world_size):
        if not asked:
            raise RunError(f"could not reach the other processes: of {world_size}, {here.add(ARRIVED, 0)} came within {seconds:g} s")
        here.compare_set(VERDICT, "", STOP)  # the first verdict counts, for all
    if here.get(VERDICT) == STOP.encode():
        here.add(TOLD, 1)
        if rank == 0:
            _wait(lambda: here.add(TOLD, 0) >= here.add(ARRIVED, 0), FAREWELL_SECONDS, ())
        raise stopped()


def _wait(done: Callable[[], bool], seconds: float, asked: Sequence[int], ranks: int = 1) -> bool:
    """Ask `done` again and again, with many `ranks` more seldom; False: `seconds` have passed, or `asked` is not empty."""
    deadline, pause = time.monotonic() + seconds, 0.001
    while not done():
        if asked or time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.1 + ranks / 1000)
    return True


def stopped() -> Stopped:
    """What ends a rank that was asked to stop while it waited."""
    return Stopped("before training began")
