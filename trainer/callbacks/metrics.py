"""metrics.jsonl and evals.jsonl: one JSON object per line, in the order of the steps.

A number that is not finite is written as null, so that every line is JSON (`jq`, pandas and
JavaScript refuse NaN).
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from trainer.errors import RunError
from trainer.state import Callback, RunInfo, StepInfo
from trainer.writing import writing

METRICS = "metrics.jsonl"
EVALS = "evals.jsonl"
PATIENCE_SECONDS = 5.0
FULL = (errno.ENOSPC, errno.EDQUOT)
_ENCODER = json.JSONEncoder(allow_nan=False)
LAST_STEPS = 20  # whose mean loss stands for the loss at the end


def cut_back(path: Path, step: int) -> None:
    """Remove the lines after `step` from the end of `path`, and what a kill left half written.

    Steps only rise in such a file, so it is read from its end: the cost is that of what is removed.
    """
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            end = len(view)
            while end > 0:
                start = view.rfind(b"\n", 0, end - 1) + 1
                record = parse(view[start:end])
                if record is not None and record["step"] <= step:
                    break
                end = start
            whole = end == 0 or view[end - 1 : end] == b"\n"
        file.truncate(end)
        if not whole:
            file.seek(end)
            file.write(b"\n")


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in `path`, line by line; a last line that a kill left half written is passed over.

    Raises:
        RunError: any other line is not an object with a step.
    """
    broken = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if broken:
                raise RunError(f"{path}: line {broken} is not a JSON object with a step; remove that line to go on")
            record = parse(line)
            if record is None:
                broken = number
            else:
                yield record


def last_recorded(path: Path) -> int | None:
    """The step of the last whole line of `path`; None where there is none."""
    if not path.exists():
        return None
    with path.open("rb") as file:  # the last lines are enough
        file.seek(max(0, path.stat().st_size - 2**16))
        tail = file.read().splitlines()
    return next((record["step"] for line in reversed(tail) if (record := parse(line)) is not None), None)


def parse(line: bytes) -> dict[str, Any] | None:
    """One line of metrics or evaluations; None when it is not whole."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def finite(value: Any) -> Any:
    """`value` with every number in it that is not finite replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def to_line(values: Mapping[str, Any]) -> str:
    """`values` as one line of JSON; numbers that are not finite become null."""
    try:
        return _ENCODER.encode(values) + "\n"
    except ValueError:  # some are not: rare, and looking for them each time takes longer than the rest
        return _ENCODER.encode(finite(values)) + "\n"


class Metrics(Callback):
    """Writes every committed step to metrics.jsonl and every evaluation to evals.jsonl.

    Lines are handed to the system as soon as their steps are told.
    On resume both files are cut back to the checkpoint's step. On a full disk lines are kept for `PATIENCE_SECONDS`: a
    checkpoint being written beside may have filled it, and makes room again when it fails.

    Raises:
        RunError: the files cannot be written.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._files: dict[str, FileIO] = {}
        self._steps: list[StepInfo] = []
        self._evals: list[str] = []
        self._full_since: float | None = None

    def on_start(self, run: RunInfo) -> None:
        for name in (METRICS, EVALS):
            with writing(self._run_dir / name):
                self._run_dir.mkdir(parents=True, exist_ok=True)
                cut_back(self._run_dir / name, run.first_step - 1)
                self._files[name] = FileIO(self._run_dir / name, "a")

    def on_steps(self, infos: Sequence[StepInfo]) -> None:
        self._steps += infos
        self._write(PATIENCE_SECONDS)

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        self._evals.append(to_line({"step": step, **metrics}))
        self._write(PATIENCE_SECONDS)

    def on_checkpoint(self, step: int, path: Path) -> None:
        self._sync()  # a run resumed from this checkpoint does not repeat these lines: they must outlast a power cut as it does

    def on_finish(self, status: str, facts: Mapping[str, Any]) -> None:
        self._sync()

    def close(self) -> None:
        try:
            self._write()
        except RunError as error:  # what ends the run is being said: these lines are the last few of it
            print(f"warning: {error}", file=sys.stderr)
        for file in self._files.values():
            file.close()

    def _write(self, patience: float = 0.0) -> None:
        now = time.monotonic()
        try:
            if self._steps:
                self._append(METRICS, "".join([to_line(info._asdict()) for info in self._steps]))
                self._steps.clear()
            if self._evals:
                self._append(EVALS, "".join(self._evals))
                self._evals.clear()
            self._full_since = None
        except RunError as error:
            self._full_since = self._full_since or now
            if getattr(error.__cause__, "errno", None) not in FULL or now - self._full_since >= patience:
                raise

    def _append(self, name: str, text: str) -> None:
        """Write lines at the end of a file: all of them, or none."""
        with writing(self._run_dir / name):
            file, rest = self._files[name], text.encode()
            end = file.seek(0, os.SEEK_END)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(end)
                raise

    def _sync(self) -> None:
        self._write()
        for name, file in self._files.items():
            with writing(self._run_dir / name):
                os.fsync(file.fileno())
