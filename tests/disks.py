"""Real disks that are small, full or read-only."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

MUST_MOUNT = "TRAINER_TESTS_MUST_MOUNT"


def not_mounted(why: str) -> NoReturn:
    """End the test: only root can make a disk that fills up, or a container. Elsewhere it is skipped, but never where `MUST_MOUNT` is set, as CI does."""
    if os.environ.get(MUST_MOUNT):
        pytest.fail(f"{MUST_MOUNT} is set, and this user may not mount: {why}")
    pytest.skip(f"this user may not mount: {why}")


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[None]:
    """A file system of `size` bytes at `path`; see `not_mounted` for where this user may mount none."""
    path.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, text=True)
    if mounted.returncode:
        not_mounted(mounted.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def remount(path: Path, options: str) -> None:
    """Change a small disk: "size=BYTES", "ro", "rw"."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True)


def fill(path: Path) -> None:
    """Leave no byte free on the small disk at `path`."""
    with (path / "filling").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))
