"""Ranks as forks of this process, which has imported everything already: about a second a group, not ten.

The parent must have run neither autograd nor a process group, have no OpenMP threads and not have
touched CUDA: none of these survives a fork.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trainer.distributed import LISTEN_FD, Place
from trainer.launchers.ranks import ERROR_FILE, failure_recorded, how_it_ended, read_failures

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
GRACE_SECONDS = 5.0  # after one rank has failed, the others have this long to say why they fail too


@dataclass(frozen=True)
class Failed:
    """A rank that did not do its work."""

    rank: int
    line: str
    """What went wrong."""
    trace: str
    """Its traceback, or what it printed."""
    config_error: bool


class Forked:
    """`body(place)` on forked ranks; it has begun once this object exists."""

    def __init__(self, ranks: int, body: Callable[[Place], None], directory: Path, timeout: float):
        self.ranks, self.directory, self.timeout = ranks, directory, timeout
        self.started = time.monotonic()
        self.seconds = 0.0
        self._status: dict[int, int] = {}
        self._pids: list[int] = []
        self._killed: set[int] = set()
        self._failed_at: float | None = None
        directory.mkdir(parents=True, exist_ok=True)
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024) if ranks > 1 else None
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            for rank in range(ranks):
                pid = os.fork()
                if pid == 0:
                    self._child(Place(rank, ranks, rank), body, listener)
                self._pids.append(pid)
        finally:
            if listener is not None:
                listener.close()

    def _child(self, place: Place, body: Callable[[Place], None], listener: socket.socket | None) -> None:
        """Never returns."""
        with suppress(BaseException):  # what is raised here must not run the parent's handlers twice; `failure_recorded` wrote it down
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its ranks
            log = os.open(self.log(place.rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ |= {
                "RANK": str(place.rank),
                "LOCAL_RANK": str(place.local_rank),
                "WORLD_SIZE": str(place.world_size),
                "LOCAL_WORLD_SIZE": str(place.world_size),
                "MASTER_ADDR": "127.0.0.1",
                ERROR_FILE: str(self._error(place.rank)),
            }
            if listener is not None:
                os.environ["MASTER_PORT"] = str(listener.getsockname()[1])
                if place.rank == 0:
                    os.environ[LISTEN_FD] = str(listener.detach())
                else:
                    listener.close()
            with failure_recorded(place.rank):
                body(place)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)  # what the parent registered for its own end is not the child's to run
        os._exit(1)

    def log(self, rank: int) -> Path:
        """What the rank printed."""
        return self.directory / f"rank-{rank}.log"

    def _error(self, rank: int) -> Path:
        return self.directory / f"rank-{rank}.error.json"

    def done(self) -> bool:
        """Whether all ranks have ended. Ends those that outlive a failed one, or the time limit."""
        for rank, pid in enumerate(self._pids):
            if rank not in self._status:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self._status[rank] = os.waitstatus_to_exitcode(status)
        if len(self._status) == self.ranks:
            self.seconds = self.seconds or time.monotonic() - self.started
            return True
        now = time.monotonic()
        if self._failed_at is None and any(self._status.values()):
            self._failed_at = now
        if now - self.started > self.timeout or (self._failed_at is not None and now - self._failed_at > GRACE_SECONDS):
            self.kill()
        return False

    def wait(self) -> Forked:
        """Return when all ranks have ended."""
        try:
            while not self.done():
                time.sleep(0.01)
        except BaseException:
            self.kill()
            raise
        return self

    def kill(self) -> None:
        """End every rank that still runs."""
        for rank, pid in enumerate(self._pids):
            if rank not in self._status:
                self._killed.add(rank)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def failure(self) -> Failed | None:
        """The rank that failed first; None where all did well."""
        failed = {rank: status for rank, status in self._status.items() if status}
        if not failed:
            return None
        records = {rank: self._error(rank) for rank in failed if self._error(rank).exists()}
        died = [rank for rank in failed if rank not in records and rank not in self._killed]
        if died:  # its end explains what the others say
            return Failed(died[0], f"{how_it_ended(failed[died[0]])} without a word", self._printed(died[0]), False)
        if failures := read_failures(records.values()):
            culprit = min(failures.values(), key=lambda failure: failure.secondary)  # the first in time, but not one that only lost a connection
            trace = culprit.trace.strip()
            return Failed(culprit.rank, culprit.message if culprit.explained else trace.splitlines()[-1], trace, culprit.kind == "ConfigError")
        return Failed(next(iter(failed)), f"not done after {self.timeout:g} s (prove.timeout)", self._printed(next(iter(failed))), False)

    def _printed(self, rank: int) -> str:
        return self.log(rank).read_text(encoding="utf-8", errors="replace")
