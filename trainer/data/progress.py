"""How far long work, such as the preparation of data, has come, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_QUIET = 1.0  # seconds before anything is said
_BETWEEN_LINES = 10.0  # seconds


@contextmanager
def progress(what: str, total: int, unit: str = "") -> Iterator[Callable[[int], object]]:
    """Gives a function to call with how much was done, bytes or `unit`: a bar on a terminal, else a plain line now and then."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=what, unit=f" {unit}" if unit else "B", unit_scale=not unit, delay=_QUIET, file=sys.stderr) as bar:
            yield bar.update
        return
    start = time.monotonic()
    done, next_line = 0, start + _BETWEEN_LINES

    def told(amount: int) -> str:
        return f"{amount:,}" if unit else f"{amount / 1e6:.1f}"

    def advance(size: int) -> None:
        nonlocal done, next_line
        done += size
        now = time.monotonic()
        if now >= next_line:
            next_line = now + _BETWEEN_LINES
            print(f"{what}: {told(done)} of {told(total)} {unit or 'MB'} ({100 * done // max(total, 1)} %)", file=sys.stderr, flush=True)

    yield advance
    seconds = time.monotonic() - start
    if seconds >= _QUIET:
        print(f"{what}: {told(total)} {unit or 'MB'} in {seconds:.1f} s", file=sys.stderr, flush=True)
