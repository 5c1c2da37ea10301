"""The callbacks of a run as one: what tells them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from trainer.errors import RunError
from trainer.state import Callback, RunInfo, StepInfo

TELL_SECONDS = 0.2


class Watchers:
    """Tells `callbacks` (none but on rank 0) of everything, in their order.

    Short steps are told several together: code that runs once between two steps is no longer in the processor's caches,
    and takes several times as long. What else happens is told after all steps before it. A process that is killed
    has not told of the steps of the last `TELL_SECONDS`. `settle` before what takes time of its own: callbacks take the time between two calls.
    """

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self._callbacks = callbacks
        self._steps: list[StepInfo] = []
        self._told = 0.0

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def on_start(self, run: RunInfo) -> None:
        for callback in self._callbacks:
            callback.on_start(run)

    def on_step(self, info: StepInfo) -> None:
        self._steps.append(info)
        if time.monotonic() - self._told >= TELL_SECONDS:
            self.settle()

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        self.settle()
        for callback in self._callbacks:
            callback.on_eval(step, metrics)

    def on_checkpoint(self, step: int, path: Path) -> None:
        self.settle()
        for callback in self._callbacks:
            callback.on_checkpoint(step, path)

    def on_checkpoint_end(self, step: int) -> None:
        self.settle()
        for callback in self._callbacks:
            callback.on_checkpoint_end(step)

    def on_finish(self, status: str, facts: Mapping[str, Any]) -> None:
        self.settle()
        for callback in self._callbacks:
            callback.on_finish(status, facts)

    def close(self) -> None:
        """Always called last, also after an error; each callback is closed, whatever another's close raises."""
        with ExitStack() as stack:
            for callback in reversed(self._callbacks):
                stack.callback(callback.close)
            with suppress(RunError):  # what ends the run is being said, and what cannot be written is said by its own `close`
                self.settle()

    def settle(self) -> None:
        """Tell of the steps that have not been told."""
        steps, self._steps = self._steps, []
        if steps:
            for callback in self._callbacks:
                callback.on_steps(steps)
        self._told = time.monotonic()
