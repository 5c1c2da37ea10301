"""One run at a time in a run directory: `run_dir`/run.lock, held by the process that starts the run. Nothing here imports torch.

What it guarantees:
- On one machine, also from container to container, and wherever the file system carries `flock` from machine to machine (NFS
  does): never two runs. On one machine a dead process holds nothing, because the kernel lets go.
- Elsewhere the file's time decides, which the holder renews every `BEAT_SECONDS`: a run on another machine is respected
  until `STALE_SECONDS` after its last sign of life, so one whose machine died blocks for no longer. Of two that start at
  the same moment, or of one that was suspended for longer and its successor, the earlier ends by itself at its next beat.
- A launch that starts its ranks again (under torchrun, also on other machines) does not wait for what it held itself.
Times are compared as the file server gives them: the machines' clocks may differ.
"""

from __future__ import annotations

import errno
import fcntl
import getpass
import json
import os
import platform
import shlex
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from trainer.errors import EXIT_FAILED, ConfigError

LOCK = "run.lock"
FIRST_BEAT_SECONDS = 1.0  # before a run has come to write anything
BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
TRY_SECONDS = 0.3  # a run that is just ending lets go meanwhile
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # what `flock` says where it does not work


@dataclass(frozen=True)
class Holder:
    """Who holds a run directory."""

    host: str
    machine: str
    """Tells machines of the same name apart, and a machine before and after it was started again."""
    pid: int
    user: str
    since: str
    """UTC."""
    command: str
    launch: str
    """Common to all processes that were started for one run on several machines; "" where one process starts all."""
    device: int | None = None
    """Of the mounted file system of `run_dir`, as its kernel numbers it; None: not known."""

    @staticmethod
    def here(launch: str, device: int) -> Holder:
        """This process."""
        since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return Holder(platform.node(), machine(), os.getpid(), _user(), since, shlex.join(sys.orig_argv), launch, device)

    def meets(self, path: Path) -> bool:
        """Whether its `flock` and one of this process, of the file `path`, exclude each other for certain.

        One kernel sees to that, in all its containers, but not between two mounts of one remote file system.
        """
        return _boot(self.machine) == _boot(machine()) and self.device == path.parent.stat().st_dev

    @staticmethod
    def read(path: Path) -> Holder | None:
        """Who the lock at `path` names; None where it is not there or not whole."""
        try:
            return Holder(**json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user} on {self.host}, since {self.since}: {self.command[:500]}"


class RunLock:
    """Holds `run_dir`, from now to the end of a `with` block, or to the end of this process."""

    def __init__(self, run_dir: Path, launch: str = "", again: bool = False) -> None:
        """Take it. With `again`, where the ranks of `launch` are started again, also from a machine of that launch, which has been lost.

        Raises:
            ConfigError: another run holds it (who is said), or `run_dir` cannot be written.
        """
        self._path = run_dir / LOCK
        self._over = threading.Event()
        self._made = [path for path in (run_dir, *run_dir.parents) if not path.exists()]
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            self._fd = _take(self._path, launch if again else "")
            self._own = Holder.here(launch, run_dir.stat().st_dev)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(asdict(self._own)).encode(), 0)
            os.fsync(self._fd)  # now, so that other machines see it
        except OSError as error:
            raise ConfigError(f"run_dir={run_dir}: cannot be written ({error.strerror}); give another, or make it writable") from error
        threading.Thread(target=self._beat, name="run-lock", daemon=True).start()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with suppress(OSError):  # a directory that cannot be written any more: a lock without its process holds nothing
            if Holder.read(self._path) == self._own:
                self._path.unlink()
            for path in self._made:
                path.rmdir()  # if nothing came of the run
        os.close(self._fd)

    def _beat(self) -> None:
        seconds = FIRST_BEAT_SECONDS
        while not self._over.wait(seconds):
            seconds = BEAT_SECONDS
            with suppress(OSError):  # a file server that is away for a while, a full disk: the run itself will say so
                other = Holder.read(self._path)
                if other is not None and other != self._own and not self._over.is_set():
                    print(f"run failed: run_dir={self._path.parent}: has been taken over by another run: {other}", file=sys.stderr, flush=True)
                    os._exit(EXIT_FAILED)  # nothing more may be written there; the ranks end with this process
                os.utime(self._path)


def refuse_if_held(run_dir: Path, launch: str) -> None:
    """For a process that takes part in the run `launch` but does not hold its lock: end early if another run does.

    Raises:
        ConfigError: another run is at work in `run_dir`.
    """
    path = run_dir / LOCK
    holder = Holder.read(path)
    if holder is not None and holder.launch != launch and _alive(holder, path, flocked=False):
        raise _refusal(path, holder)


def _take(path: Path, lost: str = "") -> int:
    """An open file that holds the lock. What another machine of the launch `lost` held is free: its ranks have all been ended."""
    end = time.monotonic() + TRY_SECONDS
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        flocked, free = True, True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            flocked = False
        holder = Holder.read(path)
        if free and (holder is None or _of(holder, lost) or not _alive(holder, path, flocked)):
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
            free = False  # whoever had it has deleted the file meanwhile: once more
        os.close(fd)
        if time.monotonic() > end:
            raise _refusal(path, holder)
        time.sleep(0.02)


def _of(holder: Holder, launch: str) -> bool:
    """Whether a lock was taken by `launch` on another machine. (On this one it is known whether its process lives.)"""
    return launch != "" and holder.launch == launch and holder.machine != machine()


def _alive(holder: Holder, path: Path, flocked: bool) -> bool:
    """Whether the run that a lock names may still be at work; `flocked`: this process got the `flock` of the file."""
    if flocked and holder.meets(path):
        return False
    if holder.machine == machine():
        try:
            os.kill(holder.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # somebody else's
            pass
    return _age(path) < STALE_SECONDS


def _age(path: Path) -> float:
    """Seconds since the last sign of life, by the clock of the file system."""
    with tempfile.TemporaryFile(dir=path.parent) as now:
        return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime


def _refusal(path: Path, holder: Holder | None) -> ConfigError:
    who = "a process that is just starting or ending" if holder is None else str(holder)
    gone = ""
    if holder is not None and holder.machine != machine():
        gone = f"\n  if that machine is gone, its lock ends by itself {STALE_SECONDS:.0f} s after its last sign of life, {max(0.0, _age(path)):.0f} s ago"
    return ConfigError(f"run_dir={path.parent}: another run is at work in it: {who}\n  wait for its end, or stop it, or give another run_dir={gone}")


def machine() -> str:
    """Boot and process namespace: within one of these a process id means a process."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if not boot.exists():
        return platform.node()
    return f"{boot.read_text(encoding='utf-8').strip()} {os.readlink(namespace)}"


def _boot(machine: str) -> str:
    """What all containers of a machine have in common; of a system without them the machine."""
    return machine.rpartition(" ")[0] or machine


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())
