"""The ranks of one machine as child processes: started, watched, and never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from trainer import launch_id, signals
from trainer.doctor.sight import Life
from trainer.doctor.watch import finding, stalled
from trainer.errors import EXIT_RESUMABLE, ConfigError, Interrupted, RunError
from trainer.launchers.child import LAUNCHER_FD
from trainer.launchers.ranks import ERROR_FILE, INTERRUPTED, RankDied, how_it_ended, judge, keep_room, prefixed, read_failures, told_by_status

if TYPE_CHECKING:
    from trainer.config import Config
    from trainer.launchers.local import Local

GRACE_SECONDS = 5.0  # the others have this long to say why they fail too, before they are ended
POLL_SECONDS = 0.02

Children = dict[int, subprocess.Popen[bytes]]
"""Rank to process."""


def run_children(knobs: Local, config: Config, nproc: int, work: str, launch: str, asked: list[int]) -> None:
    """Start this machine's ranks, wait for all, and raise what their ends mean together.

    `asked` (see `signals.kept`) is passed on to them: what it holds already, and what is added. `launch` is what `launch_id.new` gave.

    Raises:
        ConfigError, RunError, Stopped: see `ranks.judge`.
    """
    with ExitStack() as stack:
        files = _files(config, range(knobs.node_rank * nproc, (knobs.node_rank + 1) * nproc), stack)
        children: Children = {}
        readers: list[threading.Thread] = []
        stack.callback(_end, children, readers)
        try:
            with signals.held():  # until a child can keep them
                _start(children, readers, knobs, nproc, work, launch, files, stack)
            died = _wait(children, files, _Frozen(config, children), asked)
        except KeyboardInterrupt:
            raise Interrupted(INTERRUPTED) from None
        failures = read_failures(_record(files, rank) for rank in children)
        for rank, child in children.items():
            if rank not in failures and (failure := told_by_status(rank, child.returncode)) is not None:
                failures[rank] = failure
    judge(failures, died)


def _files(config: Config, ranks: range, stack: ExitStack) -> Path:
    """A directory for what this process and `ranks` tell one another, until `stack` is closed.

    Raises:
        RunError: there is no room for it.
    """
    from trainer.config import save

    try:
        files = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trainer-")))
        save(config, files / "config.yaml")
        for rank in ranks:
            keep_room(_record(files, rank))
    except OSError as error:
        raise RunError(f"temporary files cannot be written ({error}); make room there, or set TMPDIR to another directory") from error
    return files


def _start(children: Children, readers: list[threading.Thread], knobs: Local, nproc: int, work: str, launch: str, files: Path, life: ExitStack) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(listen("127.0.0.1" if knobs.nnodes == 1 else "", knobs.master_port)) if knobs.node_rank == 0 else None
        port = listener.getsockname()[1] if listener else knobs.master_port
        alive, held = os.pipe()
        stack.callback(os.close, alive)
        life.callback(os.close, held)  # nobody inherits it: it closes when this process is done, or dies
        for local_rank in range(nproc):
            rank = knobs.node_rank * nproc + local_rank
            env = os.environ | {
                "RANK": str(rank),
                "LOCAL_RANK": str(local_rank),
                "WORLD_SIZE": str(knobs.nnodes * nproc),
                "LOCAL_WORLD_SIZE": str(nproc),
                "MASTER_ADDR": knobs.master_addr or "127.0.0.1",
                "MASTER_PORT": str(port),
                ERROR_FILE: str(_record(files, rank)),
                LAUNCHER_FD: str(alive),
                launch_id.VARIABLE: launch,
            }
            env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
            if knobs.interface is not None:
                env |= {"GLOO_SOCKET_IFNAME": knobs.interface, "NCCL_SOCKET_IFNAME": knobs.interface}
            fds = [alive]
            if rank == 0 and listener is not None:
                fds.append(listener.fileno())
                env["TRAINER_LISTEN_FD"] = str(listener.fileno())
            command = [sys.executable, "-m", "trainer.launchers.child", str(files / "config.yaml"), work]
            # Its own session: a Ctrl-C in the terminal reaches it once, passed on by this process.
            children[rank] = subprocess.Popen(
                command, env=env, pass_fds=fds, start_new_session=True, stdin=subprocess.DEVNULL, stderr=None if rank == 0 else subprocess.PIPE
            )
            if rank != 0:
                readers.append(threading.Thread(target=_pass_on, args=(rank, children[rank].stderr), daemon=True))
                readers[-1].start()


def _pass_on(rank: int, stream: IO[bytes]) -> None:
    for line in stream:
        sys.stderr.write(prefixed(rank, line.decode(errors="replace")))


def _record(files: Path, rank: int) -> Path:
    return files / f"rank-{rank}.json"


class _Frozen:
    """Sees a run in which no rank is left that could see itself stand still: all stopped, say. (Else a rank does: `trainer.doctor.watch`.)"""

    def __init__(self, config: Config, children: Children):
        assert config.run_dir is not None
        self._run_dir, self._timeout, self._children = Path(config.run_dir), config.run.stall_timeout, children
        self._resume = config.checkpoint.resume
        self._patience = self._timeout + max(2.0, self._timeout / 10)
        self._next = time.monotonic() + self._patience

    def check(self) -> None:
        """Look, now and then.

        Raises:
            RankDied: it is so; the message names the cause.
        """
        if not self._timeout or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + max(1.0, self._timeout / 10)
        seen = stalled(self._run_dir, self._patience)
        if any(sight.life is Life.RUNNING and not sight.waits for sight in seen):
            return  # it is about to tell, or does: asking all for their stacks takes a while
        if {child.pid for child in self._children.values()} <= {sight.record.pid for sight in seen}:  # and no earlier start's
            raise RankDied(str(finding(self._run_dir, self._timeout, self._resume)))


def _wait(children: Children, files: Path, frozen: _Frozen, asked: list[int]) -> dict[int, str]:
    """Wait for all to end; the rest are ended soon after one has failed. All get the signals of `asked`.

    Returns who died by itself, and how.

    Raises:
        RankDied: the run stands still.
    """
    died: dict[int, str] = {}
    failed_at: float | None = None
    passed_on = 0
    while True:
        for number in asked[passed_on:]:
            passed_on += 1
            for child in children.values():
                child.send_signal(number)  # nothing where it has ended
        ended = {rank: status for rank, child in children.items() if (status := child.poll()) is not None}
        for rank, status in ended.items():
            if status in (0, EXIT_RESUMABLE):
                continue
            if rank not in died and not _record(files, rank).exists() and told_by_status(rank, status) is None:
                died[rank] = how_it_ended(status)
            failed_at = failed_at or time.monotonic()
        if len(ended) == len(children):
            return died
        if failed_at is not None and time.monotonic() - failed_at > GRACE_SECONDS:
            return died
        if failed_at is None:
            frozen.check()
        time.sleep(POLL_SECONDS)


def _end(children: Children, readers: list[threading.Thread]) -> None:
    """End what still runs, and whatever the ranks have started: each leads its own process group."""
    for child in children.values():
        with suppress(ProcessLookupError, PermissionError):  # nothing is left of it (macOS says the second of a zombie)
            os.killpg(child.pid, signal.SIGKILL)
    for child in children.values():
        child.wait()
    for reader in readers:
        reader.join(timeout=1)  # nobody holds the other end any more: what is left is read at once


@contextmanager
def listen(address: str, port: int | None) -> Iterator[socket.socket]:
    """A listening socket for rank 0's store, bound here so that nobody can take the port in between.

    Raises:
        ConfigError: the port is in use.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port or 0))
            listener.listen(1024)
        except OSError as error:
            raise ConfigError(
                f"launcher.master_port={port}: cannot be listened on ({error.strerror}); choose another, or leave it out to take a free one"
            ) from error
        yield listener
