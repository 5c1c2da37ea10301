"""A disk that is full for a run: a small one of its own, or, where none can be mounted, a limit on the size of its files."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer.drill.processes import marked
from trainer.units import size as in_words

MEMORY_SHARE = 4  # a small disk lives in memory: it takes this part of what is available at most
SLACK = 1 << 20
LEAST_LIMITED = 1 << 17  # records and the report of a run are smaller; its largest tensor file must not be


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[str | None]:
    """A file system of `size` bytes at `path`, with None; without one where that cannot be, with the reason."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size * MEMORY_SHARE > available:
        yield f"a small disk of {in_words(size)} would take too much of the {in_words(available)} of memory"
        return
    path.mkdir(parents=True, exist_ok=True)
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, text=True)
        why = mounted.stderr.strip() or f"mount ended with {mounted.returncode}"
    except FileNotFoundError:
        mounted, why = None, "there is no command `mount`"
    if mounted is None or mounted.returncode:
        yield f"cannot mount a small disk ({why})"
        return
    try:
        yield None
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def take_away(work: Path) -> None:
    """Take away the small disks below `work`, of a drill that was killed."""
    for path in work.glob("*/checkpoints"):
        if path.is_mount():
            subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(ballast: Path) -> None:
    """Write the file `ballast` until there is no room on its disk."""
    piece = bytes(1 << 16)
    with ballast.open("wb", buffering=0) as file:
        while piece:
            try:
                file.write(piece)
            except OSError:
                piece = piece[: len(piece) // 2]


def limit(mark: str, size: int) -> None:
    """No process with this mark may write a file beyond `size` bytes; nor may those that it starts. `resource.RLIM_INFINITY`: as before."""
    for pid in marked(mark):
        with suppress(ProcessLookupError):  # it has ended since
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))
