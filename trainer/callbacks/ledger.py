"""The ledger of a run's time: see `trainer.ledger`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.errors import RunError
from trainer.ledger import LEDGER, LINE_BYTES, Start, read
from trainer.state import Callback, RunInfo, StepInfo
from trainer.writing import writing

WRITE_SECONDS = 0.5


class Ledger(Callback):
    """Accounts for every second from the beginning of a start (`RunInfo.began`) on, and writes it twice a second.

    Time is taken between what callbacks are told. A start's first step, which also compiles and connects,
    counts as start-up. A run that is begun anew (`RunInfo.anew`) begins a new ledger.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._file = -1
        self._offset = 0
        self._reached = 0
        self._last = time.monotonic()
        self._written = 0.0
        self._start: Start | None = None

    def on_start(self, run: RunInfo) -> None:
        earlier = [] if run.anew else read(self._run_dir)
        self._reached = max([run.taken_before, *(start.taken for start in earlier)]) if earlier else 0
        now = time.time()
        began = min(now, max([run.began, *(start.noted for start in earlier[-1:])]))  # a process that Ray keeps ready is older than its start
        self._last = time.monotonic()
        self._start = Start(began, now, run.first_step, run.first_step - 1, seconds={"start_up": now - began})
        with writing(self._run_dir / LEDGER):
            self._run_dir.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._run_dir / LEDGER, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if run.anew else 0), 0o644)
            self._offset = LINE_BYTES * -(-os.fstat(self._file).st_size // LINE_BYTES)  # after what a power cut may have cut short
        self._write()

    def on_steps(self, infos: Sequence[StepInfo]) -> None:
        share = self._lap() / sum(info.step_seconds for info in infos)  # with what was done between them: telling of them, for one
        for info in infos:
            self._step(info, share * info.step_seconds)
        if self._last - self._written >= WRITE_SECONDS:
            self._write()

    def _step(self, info: StepInfo, seconds: float) -> None:
        start = self._note()
        if info.step == start.first_step:
            self._add("start_up", seconds)
        elif info.step <= self._reached:
            self._add("repeated", seconds)
        else:
            data = min(info.data_seconds, seconds)
            waits = min(info.exchange_seconds, seconds - data)
            self._add("data", data)
            self._add("communication", waits)
            self._add("compute", seconds - data - waits)
        start.taken = info.step
        start.repeated_steps += info.step <= self._reached

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        self._pass("evaluation")

    def on_checkpoint_end(self, step: int) -> None:
        self._pass("checkpoint")

    def on_finish(self, status: str, facts: Mapping[str, Any]) -> None:
        self._note().status = status
        self._pass("end")

    def close(self) -> None:
        if self._file < 0:
            return
        if self._note().status == "running":
            self._note().status = "failed"
        with suppress(RunError):  # what failed is being said
            self._pass("end")
        os.close(self._file)

    def _note(self) -> Start:
        assert self._start is not None
        return self._start

    def _lap(self) -> float:
        """Seconds since it was last called."""
        before, self._last = self._last, time.monotonic()
        return self._last - before

    def _add(self, part: str, seconds: float) -> None:
        parts = self._note().seconds
        parts[part] = parts.get(part, 0.0) + seconds

    def _pass(self, part: str) -> None:
        self._add(part, self._lap())
        self._write()

    def _write(self) -> None:
        start = self._note()
        start.noted = start.began + sum(start.seconds.values())
        with writing(self._run_dir / LEDGER):
            os.pwrite(self._file, start.to_line(), self._offset)
        self._written = self._last
