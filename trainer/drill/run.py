"""One run of the drill: a real process tree in a directory of its own, watched from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from trainer import config as configs
from trainer.config import Config
from trainer.doctor import record
from trainer.drill import processes
from trainer.whereabouts import Phase, Whereabouts

POLL_SECONDS = 0.0005  # small: a save or an evaluation of a small model takes milliseconds
LEFT_SECONDS = 5.0  # after its launcher has ended a run's processes have so long to go


class Missed(Exception):
    """The moment for a fault did not come, in a run that did as it should; the message says why."""


class Failed(Exception):
    """A run failed before its fault: whether that does harm cannot be told. The message says how."""


class Overdue(Exception):
    """A run is not over, or not further, within its time."""


@dataclass
class Run:
    """A run in `config.run_dir`, started as often as it takes. End it with `close`."""

    config: Config
    timeout: float
    """Seconds that each start has."""
    mark: str = field(default_factory=processes.new_mark)
    statuses: list[int] = field(default_factory=list)
    """Exit statuses of the starts that are over; negative is a signal."""
    _child: subprocess.Popen[bytes] | None = None
    _end: float = 0.0
    _pipe: int = -1
    _said: int = 0
    """Where in the log the present start began."""

    @property
    def run_dir(self) -> Path:
        assert self.config.run_dir is not None
        return Path(self.config.run_dir)

    @property
    def log(self) -> Path:
        """What the run has printed, beside its directory."""
        return self.run_dir.with_suffix(".log")

    def start(self, config: Config | None = None) -> None:
        """Start the run, again if it has been started before; with `config` from now on."""
        self.config = config or self.config
        path = self.run_dir.with_suffix(".yaml")
        configs.save(self.config, path)
        self._said = self.log.stat().st_size if self.log.exists() else 0
        alive, self._pipe = os.pipe()
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "trainer.drill.start", str(path), str(alive)],
                env=os.environ | {processes.MARK: self.mark},
                pass_fds=[alive],
                start_new_session=True,  # a Ctrl-C in the terminal is the drill's
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        os.close(alive)
        self._end = time.monotonic() + self.timeout

    def over(self) -> bool:
        """Whether the present start has ended; its exit status is then in `statuses`.

        Raises:
            Overdue: it should have.
        """
        if self._child is None:
            return True
        if self._child.poll() is None:
            if time.monotonic() > self._end:
                raise Overdue(f"not over after {self.timeout:g} s (drill.timeout)")
            return False
        self.statuses.append(self._child.returncode)
        self._child = None
        os.close(self._pipe)
        return True

    def wait(self) -> int:
        """The exit status, when the present start has ended."""
        self.until(self.over)
        return self.statuses[-1]

    def until(self, condition: Callable[[], bool]) -> bool:
        """Wait for `condition`; False: the start has ended without it."""
        while not condition():
            if self.over():
                return condition()
            time.sleep(POLL_SECONDS)
        return True

    def come_to(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for the moment of a fault, `what` in words.

        Raises:
            Missed: the run has come to its end before.
            Failed: it has failed before.
        """
        if not self.until(condition) or self.over():
            self.succeeded(f"before {what}")
            raise Missed(f"{what} was not met: the run came to its end before")

    def succeeded(self, when: str) -> None:
        """See that the present start comes to its end, without a fault; `when` in words.

        Raises:
            Failed: it does not.
        """
        if self.wait() != 0:
            raise Failed(f"the run failed {when}: exit status {self.statuses[-1]}")

    def close(self) -> list[str]:
        """End what is left of the run; returns the command lines of processes that should have gone by themselves."""
        running = self._child is not None
        found = [] if running else processes.left_after(self.mark, LEFT_SECONDS)
        left = [f"process {pid}: {processes.command_line(pid)}" for pid in found]
        processes.end_all(self.mark)
        if self._child is not None:
            self._child.wait()
            self.over()
        return left

    def where(self, rank: int = 0) -> tuple[int, Phase | None]:
        """Step and phase of a rank; (0, None) before it has any."""
        with suppress(OSError, ValueError):
            return Whereabouts.read(record.live_path(self.run_dir, rank))
        return 0, None

    def pids(self) -> dict[int, int]:
        """Rank to process id, of the ranks that have begun."""
        return {rank: found.pid for rank, found in record.read(self.run_dir).items()}

    def signal(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to a rank.

        Raises:
            Missed: its process has gone, with the run's end.
            Failed: the run has failed.
        """
        pid = self.pids().get(rank)
        if pid is None or not processes.has(pid, self.mark) or not processes.send(pid, number):
            self.succeeded(f"before {number.name}")
            raise Missed(f"rank {rank} had gone before {number.name} was sent")

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the process that was started, as a preemption does."""
        assert self._child is not None
        self._child.terminate()

    def said(self, text: str) -> bool:
        """Whether the present start has printed `text`."""
        with self.log.open("rb") as file:
            file.seek(self._said)
            return text.encode() in file.read()

    def last_words(self) -> str:
        """The last line that the run printed, for a message."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if self.log.exists() else []
        return f": {lines[-1]}" if lines else ""
