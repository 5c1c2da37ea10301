"""How ranks that fail say why, and what their ends mean together: one message that names the culprit."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.errors import EXIT_FAILED, EXIT_RESUMABLE, EXIT_USAGE, ConfigError, Interrupted, RunError, Stopped
from trainer.writing import write_whole

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # torchrun sets it too, and shows what is written there
STALLED = "Stalled"  # what ends a run that stands still: explained, and starting again may help
EXPLAINED = {"ConfigError": EXIT_USAGE, "RunError": EXIT_FAILED, "Stopped": EXIT_RESUMABLE, "KeyboardInterrupt": EXIT_FAILED}
ROOM = 1 << 16  # bytes kept for a record
CLIPPED = ROOM // 32  # characters of its message and of its traceback: in JSON one takes 12 bytes at most
INTERRUPTED = "interrupted twice, so ended at once; what the last checkpoint holds is kept"


class RankDied(RunError):
    """A rank died, or failed without an explanation: starting again from the last checkpoint may help."""


@dataclass(frozen=True)
class Failure:
    """Why a rank ended, in its own words."""

    rank: int
    kind: str
    """Name of the exception's class."""
    message: str
    trace: str
    """The traceback, as Python prints it."""

    @staticmethod
    def of(rank: int, error: BaseException) -> Failure:
        kind = next((cls.__name__ for cls in type(error).__mro__ if cls.__name__ in (*EXPLAINED, STALLED)), type(error).__name__)
        message = INTERRUPTED if isinstance(error, KeyboardInterrupt) else str(error)
        return Failure(rank, kind, message, "".join(traceback.format_exception(error)))

    @property
    def explained(self) -> bool:
        """Whether the message says all: no traceback is needed, and starting again would not help."""
        return self.kind in EXPLAINED

    @property
    def secondary(self) -> bool:
        """Whether this only tells that another rank has gone."""
        return ("gloo" in self.message and "Connection" in self.message) or "could not reach the other processes" in self.message

    @property
    def original(self) -> bool:
        """Whether it failed by itself: what other ranks do afterwards follows from it. (A rank that stopped has not failed.)"""
        return self.kind != "Stopped" and not self.secondary

    @property
    def conclusive(self) -> bool:
        """Whether it explains why the run has failed."""
        return self.explained and self.original

    def to_json(self) -> str:
        """As torchrun reads it, with what `from_json` needs."""
        message = {"message": self.message, "extraInfo": {"py_callstack": self.trace, "timestamp": str(int(time.time()))}}
        return json.dumps({"message": message, "rank": self.rank, "kind": self.kind})

    @staticmethod
    def from_json(text: str) -> Failure:
        record: dict[str, Any] = json.loads(text)
        message = record["message"]
        return Failure(record["rank"], record["kind"], message["message"], message["extraInfo"]["py_callstack"])


@contextmanager
def failure_recorded(rank: int) -> Iterator[None]:
    """End the process with the exit status that an exception stands for, after writing it down."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        failure = Failure.of(rank, error)
        _write(failure)
    else:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXPLAINED.get(failure.kind, EXIT_FAILED))  # not sys.exit: threads and a process group that still wait for other ranks must not hold this one


def _write(failure: Failure) -> None:
    path = os.environ.get(ERROR_FILE)
    if path is None:
        sys.stderr.write(f"rank {failure.rank}: {failure.message}\n" if failure.explained or failure.kind == STALLED else failure.trace)
        return
    try:
        write_whole(Path(path), failure.to_json(), sync=False)
    except OSError as error:  # a full disk
        if not _write_in_room(Path(path), failure):
            sys.stderr.write(f"rank {failure.rank} cannot write down why it ends ({error}): {failure.message if failure.explained else failure.trace}\n")


def keep_room(record: Path) -> None:
    """Take the room for `record` on the disk now: it may be full when a rank has a failure to write down.

    Raises:
        OSError: as of writing a file.
    """
    _room(record).write_bytes(b" " * ROOM)  # which JSON may end with


def _room(record: Path) -> Path:
    return record.with_suffix(".room")


def _write_in_room(record: Path, failure: Failure) -> bool:
    """Write to `record`, if need be not all of it, in the room that was kept; returns whether it was."""
    text = failure.to_json()
    if len(text) > ROOM:
        text = replace(failure, message=failure.message[:CLIPPED], trace=failure.trace[-CLIPPED:]).to_json()
    try:
        with _room(record).open("r+b") as file:
            file.write(text.encode())
        os.replace(_room(record), record)
    except OSError:  # none was kept (torchrun), or a disk that writes nothing in place
        return False
    return True


def tell_failure(rank: int, error: BaseException) -> None:
    """Write down why rank `rank`, whose process is about to end, ends."""
    _write(Failure.of(rank, error))


def read_failures(paths: Iterable[Path]) -> dict[int, Failure]:
    """What ranks wrote down to `paths`, by rank, the first to fail first; who had no time to write is left out."""
    written = sorted((path for path in paths if path.exists()), key=lambda path: path.stat().st_mtime_ns)
    failures = [Failure.from_json(path.read_text(encoding="utf-8")) for path in written]
    return {failure.rank: failure for failure in failures}


def told_by_status(rank: int, status: int | None) -> Failure | None:
    """What the exit status says of a rank that could write nothing down: it has printed why."""
    kind = {EXIT_USAGE: "ConfigError", EXIT_RESUMABLE: "Stopped"}.get(status or 0)
    return Failure(rank, kind, f"rank {rank} could not write down why it ended: it is printed above", "") if kind else None


def how_it_ended(status: int) -> str:
    """The exit status of a process in words; negative is a signal."""
    if status >= 0:
        return f"ended with exit status {status}"
    name = signal.Signals(-status).name
    return f"was ended by {name}" + (" (out of memory? the kernel's log says)" if name == "SIGKILL" else "")


def judge(failures: Mapping[int, Failure], died: Mapping[int, str]) -> None:
    """Raise what the ranks' ends mean together. Both arguments are in the order in which it happened.

    `died` are ranks that ended by themselves without a word, and how. One rank's end brings the others
    down, with errors of their own, so: a death explains them, then an error with an explanation, then
    any other error, and last one that only tells of a lost connection.

    Raises:
        RankDied, ConfigError, RunError, Stopped: nothing is raised when all ranks ended well.
    """
    conclusive = [failure for failure in failures.values() if failure.conclusive]
    unexplained = sorted((failure for failure in failures.values() if not failure.explained or failure.secondary), key=lambda failure: failure.secondary)
    for failure in failures.values():
        if failure.kind == STALLED:
            raise RankDied(failure.message)
    if died:
        rank, how = next(iter(died.items()))
        raise RankDied(f"rank {rank} died: it {how}; the other ranks were ended")
    if conclusive:
        culprit = conclusive[0]
        raise {"ConfigError": ConfigError, "KeyboardInterrupt": Interrupted}.get(culprit.kind, RunError)(culprit.message)
    if unexplained:
        culprit = unexplained[0]
        if culprit.secondary and not culprit.explained:  # of another machine, whose launcher knows more; a traceback from here would point at no mistake
            said = culprit.message.partition(". ")[0]
            raise RankDied(f"rank {culprit.rank} lost the connection to another rank; if that is on another machine, its launcher says why ({said})")
        detail = culprit.message if culprit.explained else f"{culprit.kind}: {culprit.message}\n\n{culprit.trace}"
        raise RankDied(f"rank {culprit.rank} failed: {detail}")
    for failure in failures.values():
        raise Stopped(failure.message)


def prefixed(rank: int, text: str) -> str:
    """`text` with `[rank R] ` before each of its lines."""
    return "".join(f"[rank {rank}] {line}" for line in text.splitlines(keepends=True))
