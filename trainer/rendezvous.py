"""Where the ranks of a run meet. They wait for one another in Python, which hears a signal; within PyTorch's own waits none is."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence

import torch.distributed as dist

from trainer.errors import RunError, Stopped

ARRIVED, ALIVE, TOLD, VERDICT = "arrived", "alive", "told", "verdict"
GO, STOP = "go", "stop"
NAMED = 8
PAUSE = 0.05
FAREWELL_SECONDS = 2.0  # to tell the others, and for them to read the verdict


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


def meet(connect: Callable[[float], dist.Store], rank: int, world_size: int, seconds: float, asked: Sequence[int]) -> dist.Store:
    """Return the store on which all `world_size` ranks have called this, on each of them, or on none. The store may end with rank 0.

    `connect(seconds)` gives the store. That may still be one of an earlier start, whose rank 0 has not ended yet: then it is asked again.

    Raises:
        RunError: some had not come after `seconds`, or nothing has answered.
        Stopped: some rank's `asked` became non-empty first; every rank then raises it.
    """
    deadline, earlier = time.monotonic() + seconds, False
    while True:
        left = max(0.0, deadline - time.monotonic()) if earlier else seconds
        try:
            store = _connected(connect, left, asked)
            here = dist.PrefixStore("meeting", store)
            again = here.add(f"rank-{rank}", 1) > 1
            earlier = again and here.check([VERDICT])  # all had met before this process came: another one was there in its place
        except (dist.DistNetworkError, dist.DistStoreError):
            if not earlier:
                raise  # else it has just ended
        else:
            if not earlier:
                _meet(here, rank, world_size, left, asked, 0 if again else 1)
                return store
            del here, store  # the connection is closed
        if not left:
            raise RunError(f"could not reach the other processes: those of an earlier start have not ended for {seconds:g} s")
        _wait(lambda: False, min(left, 0.5 + world_size / 1000), asked)
        if asked:
            raise stopped()


def _connected(connect: Callable[[float], dist.Store], seconds: float, asked: Sequence[int]) -> dist.Store:
    """What `connect(seconds)` returns. In a thread of its own: where nothing is answered, though something listens, PyTorch's client waits for ever.

    A rank that is asked to stop connects all the same where it can, to tell the others.
    """
    outcome: list[dist.Store | BaseException] = []

    def work() -> None:
        try:
            outcome.append(connect(seconds))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def done() -> bool:
        thread.join(PAUSE)
        return bool(outcome)

    if not (_wait(done, seconds, asked) or _wait(done, FAREWELL_SECONDS, ())):
        if asked:
            raise stopped()
        raise RunError(f"could not reach the other processes: rank 0 has not answered for {seconds:g} s")
    (found,) = outcome
    if isinstance(found, BaseException):
        raise found
    return found


def _meet(here: dist.Store, rank: int, world_size: int, seconds: float, asked: Sequence[int], more: int) -> None:
    """`meet` on the store of this start, to which `more` ranks (1, or 0 where it is in another's place) have come."""
    deadline = time.monotonic() + seconds

    def all_arrived(more: int) -> bool:
        return here.add(ARRIVED, more) == world_size or here.check([VERDICT])

    # Who has arrived may be dead when the last arrives: each says that it still lives, or who has come in its place does.
    met = all_arrived(more) or _wait(lambda: all_arrived(0), seconds, asked, world_size)
    if met and here.add(f"{ALIVE}-{rank}", 1) == 1 and here.add(ALIVE, 1) == world_size:
        here.compare_set(VERDICT, "", GO)
    elif not (met and _wait(lambda: here.check([VERDICT]), deadline - time.monotonic(), asked, world_size)):
        if not asked:
            missing = [str(other) for other in range(world_size) if not here.check([f"{ALIVE}-{other}" if met else f"rank-{other}"])]
            named = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
            raise RunError(f"could not reach the other processes: of {world_size} ranks, these did not come within {seconds:g} s: {named}")
        here.compare_set(VERDICT, "", STOP)  # the first verdict counts, for all
    if here.get(VERDICT) == STOP.encode():
        here.add(TOLD, 1)
        if rank == 0:
            _wait(lambda: here.add(TOLD, 0) >= world_size, FAREWELL_SECONDS, ())  # also those that are just coming: they would find it gone
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
