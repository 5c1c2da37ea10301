"""What Ray Train runs in each of its workers."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from typing import Any

import ray.train

from trainer.config import from_plain
from trainer.distributed import Place
from trainer.errors import RunError
from trainer.launchers.base import load_work
from trainer.launchers.link import Address, Line, Stream
from trainer.launchers.ranks import Failure


def run_rank(arguments: dict[str, Any]) -> None:
    """Train as one rank, in the process group that Ray made, with output and failures sent to the launcher.

    An end with an explanation (a wrong config, a stop) returns as if all were well: the launcher knows it, and ends the others
    when they have had time to say theirs.
    """
    context = ray.train.get_context()
    rank = context.get_world_rank()
    asked: list[int] = []
    line = Line(Address(**arguments["launcher"]), rank, asked)
    os.environ["COLUMNS"] = str(arguments["columns"])

    def tell(rank: int, error: RunError) -> None:
        line.send(failure=Failure.of(rank, error).to_json())

    out, err = (Stream(line, name, arguments["terminal"] and rank == 0) for name in ("out", "err"))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            _enter(arguments["directory"])
            place = Place(rank, context.get_world_size(), context.get_local_rank(), arguments["launch"])
            load_work(arguments["work"])(from_plain(arguments["config"]), place, asked, tell)
    except Exception as error:
        failure = Failure.of(rank, error)
        line.send(failure=failure.to_json())
        if not failure.explained:
            raise RuntimeError(failure.message) from None  # plain, so that Ray can pass it on without this package
    finally:
        out.flush()
        err.flush()
        line.close()
    ray.train.report({"rank": rank})


def _enter(directory: str) -> None:
    """Relative paths mean the same as where the run was started."""
    try:
        os.chdir(directory)
    except OSError as error:
        raise RunError(
            f"{directory}: is not there on {socket.gethostname()} ({error.strerror}); start the run in a directory that all machines of the cluster share"
        ) from error
    sys.path[:] = [path for path in sys.path if path] + [""]
