"""Prepared data on disk: built once, under a lock, and moved into place whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError, RunError

INDEX = "index.json"
_SAY_WAITING_AFTER = 10.0  # seconds


def cache_root() -> Path:
    """`TRAINER_CACHE`, else `XDG_CACHE_HOME`/trainer, else ~/.cache/trainer."""
    if given := os.environ.get("TRAINER_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trainer"


def digest(value: Any) -> str:
    """sha256 (hex) of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_stamp(path: Path) -> list[Any]:
    """What changes when a file changes: [absolute path, bytes, mtime in ns].

    Raises:
        ConfigError: there is no such file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns]


def unreadable(path: Path | str, error: OSError) -> ConfigError:
    """The error for an input that cannot be read, with the system's reason."""
    return ConfigError(f"{path}: cannot be read: {os.strerror(error.errno) if error.errno else error}")


def cached(kind: str, key: str, build: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """The directory for `key`, built by `build(directory)` if it is not there, and its index.

    `build` writes files into the directory it is given and returns the index (plain values), in which
    "files" maps each file's name to its bytes. The directory is built under a temporary name and renamed:
    a killed build leaves nothing that passes for whole, and the next one removes what it left.

    Raises:
        ConfigError: the cache cannot be written, or what `build` raises.
        RunError: the disk is full.
    """
    return whole(cache_root() / kind / key[:32], build)


def whole(place: Path, build: Callable[[Path], dict[str, Any]], good: Callable[[dict[str, Any]], bool] = lambda index: True) -> tuple[Path, dict[str, Any]]:
    """`place`, built as `cached` says if it is not there, and its index. What is there and is not `good` by its index is built anew."""
    from filelock import FileLock, Timeout

    parent = place.parent
    if (index := _read_whole(place)) is not None and good(index):
        return place, index
    try:
        parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(parent / f"{place.name}.lock")
        try:
            lock.acquire(timeout=_SAY_WAITING_AFTER)
        except Timeout:
            print(f"waiting for another process that prepares {place}", file=sys.stderr, flush=True)
            lock.acquire()
    except OSError as error:
        raise ConfigError(f"{parent}: cannot be written: {error.strerror or error}; set TRAINER_CACHE to a directory for prepared data") from error
    try:
        index = _read_whole(place)
        if index is None or not good(index):
            index = _build(place, build)
    finally:
        lock.release()
    return place, index


def _build(place: Path, build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    for leftover in place.parent.glob(f".{place.name}.*"):  # we hold the lock: nobody builds there
        shutil.rmtree(leftover)
    if place.exists():  # damaged, or not good
        shutil.rmtree(place)
    partial = place.parent / f".{place.name}.{os.getpid()}"
    partial.mkdir()
    try:
        index = build(partial)
        (partial / INDEX).write_text(json.dumps(index), encoding="utf-8")
        os.replace(partial, place)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(f"{place.parent}: {error.strerror} while preparing data; free space, or set TRAINER_CACHE to a larger disk") from error
        raise
    return index


def _read_whole(place: Path) -> dict[str, Any] | None:
    """The index, or None where there is none or a file is not as long as it says (a crashed machine)."""
    try:
        index = json.loads((place / INDEX).read_bytes())
        whole = all((place / name).stat().st_size == size for name, size in index["files"].items())
    except (OSError, ValueError):
        return None
    return index if whole else None


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
