"""How a rank that fails says why: one JSON file, which its launcher reads (torchrun's too)."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.errors import EXIT_FAILED, EXIT_RESUMABLE, EXIT_USAGE, ConfigError, RunError, Stopped

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # torchrun sets it too, and shows what is written there


@contextmanager
def failure_recorded(rank: int) -> Iterator[None]:
    """End the process with the exit status that an exception stands for, after writing it down."""
    try:
        yield
    except (ConfigError, RunError, Stopped, KeyboardInterrupt) as error:
        _write(rank, error, expected=True)
        status = {ConfigError: EXIT_USAGE, Stopped: EXIT_RESUMABLE}.get(type(error), EXIT_FAILED)
    except Exception as error:
        _write(rank, error, expected=False)
        status = EXIT_FAILED
    else:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # not sys.exit: threads and a process group that still wait for other ranks must not hold this one


def _write(rank: int, error: BaseException, *, expected: bool) -> None:
    trace = "".join(traceback.format_exception(error))
    path = os.environ.get(ERROR_FILE)
    if path is None:
        sys.stderr.write(f"rank {rank}: {error}\n" if expected else trace)
        return
    message = {"message": str(error), "extraInfo": {"py_callstack": trace, "timestamp": str(int(time.time()))}}
    record = {"message": message, "rank": rank, "kind": type(error).__name__, "expected": expected, "time": time.time()}
    partial = Path(f"{path}.partial")
    partial.write_text(json.dumps(record), encoding="utf-8")
    os.replace(partial, path)


def read_failure(path: Path) -> dict[str, Any] | None:
    """What a rank wrote down, or None where it had no time to."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
