"""The thread of a rank that writes down where the rank is, and sees when the run stands still."""

from __future__ import annotations

import faulthandler
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer.doctor import collectives
from trainer.doctor.record import DIAGNOSIS, STACKS_SIGNAL, RankRecord, directory, live_path, oom_kills, process_start, stacks_path, write
from trainer.doctor.watch import Watch
from trainer.errors import RunError, Stopped
from trainer.run_lock import machine
from trainer.whereabouts import Phase, Whereabouts

RANKS_PER_SECOND = 64  # that may write to one run directory
BUSY = 0.05  # share of a core from which on a process works: one that waits takes far less
READ_OR_WRITTEN = 1 << 20  # bytes a second, likewise


class Recorder:
    """Writes `run_dir`/ranks/rank-R.json once a second, from a thread: the training thread makes no system call for it."""

    def __init__(self, run_dir: Path, rank: int, world_size: int, patience: float):
        self._run_dir, self._patience = run_dir, patience
        now = time.time()
        self.record = RankRecord(
            rank=rank,
            world_size=world_size,
            host=socket.gethostname(),
            machine=machine(),
            pid=os.getpid(),
            process_start=process_start(os.getpid()),
            started=now,
            interval=max(1.0, world_size / RANKS_PER_SECOND),
            written=now,
            changed=now,
            oom_kills=oom_kills(),
        )
        self._seen: tuple[object, ...] = ()
        self._told = False
        self._used = (0.0, 0)
        self._first: tuple[float, int] | None = None
        try:
            directory(run_dir).mkdir(parents=True, exist_ok=True)
            self.where = Whereabouts(live_path(run_dir, rank))
            self._stacks = stacks_path(run_dir, rank).open("w")
            if rank == 0:
                (directory(run_dir) / DIAGNOSIS).unlink(missing_ok=True)
            faulthandler.register(STACKS_SIGNAL, file=self._stacks, all_threads=True)  # before the record, which lets others send it
            write(run_dir, self.record)
        except OSError as error:
            raise RunError(f"run_dir={run_dir}: cannot be written ({error.strerror}); give a directory with room in which this user may write") from error

    def look(self) -> float:
        """Write where the rank is now; returns for how many seconds it has not come further."""
        record, where, now = self.record, self.where, time.time()
        record.entered, record.left = collectives.numbers()
        record.step, record.phase = where.step, str(where.phase)
        seen = (where.step, where.phase, where.beats, record.entered, record.left)
        working = self._works()
        if seen != self._seen or working:
            record.recent, self._told = [], False
            self._seen, record.changed = seen, now
        elif now - record.changed >= self._patience and not self._told:
            record.recent, self._told = collectives.recent(), True
            self._stacks.seek(0)
            self._stacks.truncate()
            faulthandler.dump_traceback(self._stacks, all_threads=True)
        self._first = (self._first or (now, where.step)) if where.settled else None
        if self._first is not None and where.step > self._first[1]:
            record.step_seconds = (record.changed - self._first[0]) / (where.step - self._first[1])
        self._write(now)
        return now - record.changed

    def _works(self) -> bool:
        """Whether it does something that changes nothing else here: compiling and reading at the start, reading and writing in a save."""
        used, self._used = self._used, _used()
        seconds, bytes_ = self._used[0] - used[0], self._used[1] - used[1]
        outside_steps = not self.where.settled or self.where.phase in (Phase.EVALUATION, Phase.SAVE, Phase.END)
        if not outside_steps or self.record.pending:
            return False
        return seconds >= BUSY * self.record.interval or bytes_ >= READ_OR_WRITTEN * self.record.interval

    def end(self, ended: str, error: str | None = None) -> None:
        """The last record: the rank is done."""
        self.record.step, self.record.phase = self.where.step, str(self.where.phase)
        self.record.entered, self.record.left = collectives.numbers()
        self.record.ended, self.record.error = ended, error
        self._write(time.time())
        faulthandler.unregister(STACKS_SIGNAL)
        self._stacks.close()

    def _write(self, now: float) -> None:
        self.record.written = now
        with suppress(OSError):  # a full disk: training goes on, and the age of what was written last tells
            write(self._run_dir, self.record)


def _used() -> tuple[float, int]:
    """Seconds of the CPU that this process has taken, and bytes that it has read and written."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    return time.process_time(), sum(int(line.split()[1]) for line in lines if line.startswith(("rchar", "wchar")))


@contextmanager
def recorded(run_dir: Path, rank: int, world_size: int, on_still: Watch) -> Iterator[Whereabouts]:
    """Record this rank while the block runs; yields where it is to note where it is.

    `on_still` is called with the seconds, from the thread, while the rank does not come further, and does not wait for others to come.

    Raises:
        RunError: the run directory cannot be written.
    """
    recorder = Recorder(run_dir, rank, world_size, on_still.patience)
    over = threading.Event()

    def work() -> None:
        while not over.wait(recorder.record.interval):
            still = recorder.look()
            if still >= on_still.patience and recorder.where.phase is not Phase.MEETING:  # who waits for others is not their judge
                on_still(still)

    thread = threading.Thread(target=work, name="recorder", daemon=True)
    thread.start()
    ended, error = "finished", None
    try:
        yield recorder.where
    except Stopped:
        ended = "stopped"
        raise
    except BaseException as raised:
        ended, error = "failed", f"{type(raised).__name__}: {raised}"
        raise
    finally:
        over.set()
        thread.join()
        recorder.end(ended, error)
