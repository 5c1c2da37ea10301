"""Files that are written whole or not at all, and what is said when one cannot be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer.errors import RunError, run_again


def write_whole(path: Path, text: str, sync: bool = True) -> None:
    """Write a text file whole or not at all. On an error nothing is left of it.

    `sync`: make sure that it is on the disk. A file that is worth nothing after a power cut does without.

    Raises:
        OSError: as of writing a file.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):  # a directory that is read-only now: the first error says so
            partial.unlink()
        raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Surrounds the writing of a file of a run directory without which a run cannot go on.

    Raises:
        RunError: instead of an OSError, naming `path`, the reason and how to go on.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror}); make room or make it writable, then {run_again(path.parent)}: "
            "it goes on from the newest whole checkpoint"
        ) from error
