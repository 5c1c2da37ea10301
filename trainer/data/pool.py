"""Processes that prepare data. They end at once when the work is given up, and when the process that waits for them is gone."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from trainer.errors import EXIT_FAILED, RunError
from trainer.signals import held


@contextmanager
def processes(number: int, died: str) -> Iterator[Callable[..., Future[Any]]]:
    """Gives `submit(function, *arguments)`, which has at most `number` processes call it; whatever ends the block early ends them.

    Raises:
        RunError: one of them died; `died` says it.
    """
    # Spawned, not forked: the caller may hold threads, a process group or a GPU.
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    with reader, writer, ProcessPoolExecutor(number, context, _end_with, (reader,)) as pool:

        def submit(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
            with held():  # a request to stop is for the caller alone, also where a terminal sends it to all
                return pool.submit(function, *arguments)

        try:
            yield submit
        except BaseException as error:
            writer.close()  # they hear no SIGTERM
            if isinstance(error, BrokenProcessPool):
                raise RunError(died) from error
            raise


def may_start() -> bool:
    """Whether this process may start others: a daemon may not."""
    return not multiprocessing.current_process().daemon


def _end_with(reader: Connection) -> None:
    """In a process of the pool: end it when the other end of the pipe, which the caller alone holds, is closed. Native code does not delay that."""

    def wait() -> None:
        with suppress(EOFError, OSError):
            reader.recv_bytes()
        os._exit(EXIT_FAILED)

    threading.Thread(target=wait, daemon=True).start()
