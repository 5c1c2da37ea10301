"""Requests to stop. Nothing here imports torch, so that they are kept from the first moment."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from trainer.errors import Stopped

NUMBERS = (signal.SIGTERM, signal.SIGINT)
NOT_BEGUN = "before training began; run the same command to go on"
T = TypeVar("T")


class _Asked(BaseException):
    """A request to stop, where it ends what is done. No Exception: nothing that handles errors may take it for one."""


def keep(asked: list[int]) -> dict[signal.Signals, Any]:
    """Add SIGTERM, and SIGINT once, to `asked` from now on; SIGINT twice raises KeyboardInterrupt. Returns the handlers before."""

    def ask(number: int, _: Any) -> None:
        if number == signal.SIGINT and signal.SIGINT in asked:
            raise KeyboardInterrupt
        asked.append(number)

    return _handle(ask)


def _handle(handler: Callable[[int, Any], None]) -> dict[signal.Signals, Any]:
    try:
        return {number: signal.signal(number, handler) for number in NUMBERS}
    except ValueError:  # not in the main thread (a Ray worker): whoever owns the process handles signals
        return {}


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextmanager
def kept(asked: list[int]) -> Iterator[list[int]]:
    """`keep`, and afterwards as it was. Where a stop was asked for, SIGTERM is ignored from then on: again, it must not change how the process ends."""
    old = keep(asked)
    try:
        yield asked
    finally:
        if asked and old:
            old[signal.SIGTERM] = signal.SIG_IGN  # not `ask`: Python takes its own handlers away before it has ended
        _restore(old)


def until_asked(asked: list[int], work: Callable[[], T]) -> T:
    """What `work` returns. The first request to stop, kept in `asked` as `keep` does, ends it in the middle: it must leave nothing half done.

    Raises:
        Stopped: `asked` is not empty. `work` has had time to clear up.
    """

    def ask(number: int, _: Any) -> None:
        first = not asked
        if number == signal.SIGINT and signal.SIGINT in asked:
            raise KeyboardInterrupt
        asked.append(number)
        if first:
            raise _Asked

    if asked:
        raise Stopped(NOT_BEGUN)
    old: dict[signal.Signals, Any] = {}
    try:
        try:
            old = _handle(ask)
            result = work()
        finally:
            try:
                _restore(old)
            except _Asked:  # there is no second one
                _restore(old)
    except _Asked:
        raise Stopped(NOT_BEGUN) from None
    if asked:  # it came where Python lets no exception through, in a finalizer for one
        raise Stopped(NOT_BEGUN)
    return result


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
