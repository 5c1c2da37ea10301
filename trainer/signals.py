"""Requests to stop. Nothing here imports torch, so that they are kept from the first moment."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NUMBERS = (signal.SIGTERM, signal.SIGINT)


def keep(asked: list[int]) -> dict[signal.Signals, Any]:
    """Add SIGTERM, and SIGINT once, to `asked` from now on; SIGINT twice raises KeyboardInterrupt. Returns the handlers before."""

    def ask(number: int, _: Any) -> None:
        if number == signal.SIGINT and signal.SIGINT in asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        return {number: signal.signal(number, ask) for number in NUMBERS}
    except ValueError:  # not in the main thread (a Ray worker): whoever owns the process handles signals
        return {}


@contextmanager
def kept(asked: list[int]) -> Iterator[list[int]]:
    """`keep`, and afterwards as it was. Where a stop was asked for, SIGTERM is ignored from then on: again, it must not change how the process ends."""
    old = keep(asked)
    try:
        yield asked
    finally:
        if asked and old:
            old[signal.SIGTERM] = signal.SIG_IGN  # not `ask`: Python takes its own handlers away before it has ended
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Signals wait in processes that are started meanwhile, until these call `release`.

    Not in this process: another of its threads may get one, and Python then calls the handler in the main thread all the same.
    """
    old = signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def release() -> None:
    """Let signals come that waited since this process was started."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
