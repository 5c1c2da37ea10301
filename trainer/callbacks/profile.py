"""A Chrome trace of some steps (open it at chrome://tracing or in Perfetto)."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from trainer.errors import ConfigError

if TYPE_CHECKING:
    from torch.profiler import profile

Result = TypeVar("Result")


def check_profile_steps(steps: Sequence[int], max_steps: int) -> None:
    """Raise `ConfigError` unless `steps` is empty or the first and last step of a range within the run."""
    if not steps:
        return
    right = f"right would be [first, last] with 1 <= first <= last <= {max_steps} (train.max_steps), both included, or [] for no profile"
    if len(steps) != 2 or not 1 <= steps[0] <= steps[1] <= max_steps:
        raise ConfigError(f"profile.steps={list(steps)} is not a range of steps of this run; {right}")


class Profile:
    """Profiles the steps from `steps[0]` to `steps[1]`; nothing when `steps` is empty.

    It stands beside the loop rather than among the callbacks, which are told of a step only after
    it is over. Every rank may have one; each writes its own file, rankR-steps-FIRST-LAST.json.gz.
    A run that resumes or stops within the range is traced as far as it goes.
    """

    def __init__(self, run_dir: Path, steps: Sequence[int], rank: int = 0) -> None:
        self._dir = run_dir / "profile"
        self._first, self._last = steps if steps else (1, 0)
        self._rank = rank
        self._profiler: profile | None = None
        self._traced: list[int] = []

    def around(self, results: Iterable[Result], first: int) -> Iterator[Result]:
        """Pass on `results`, one for each step from `first`, whose work is done as they are taken."""
        iterator = iter(results)
        try:
            for step in itertools.count(first):
                self.before_step(step)
                try:
                    result = next(iterator)
                except StopIteration:
                    return
                self.after_step(step)
                yield result
        finally:
            self.close()

    def before_step(self, step: int) -> None:
        """Call before the work of `step` begins."""
        if self._profiler is None and self._first <= step <= self._last:
            from torch.profiler import profile

            self._traced = []
            self._profiler = profile()  # the CPU, and the GPU where there is one
            self._profiler.start()

    def after_step(self, step: int) -> None:
        """Call when the work of `step` has been queued."""
        if self._profiler is not None:
            self._traced.append(step)
            if step >= self._last:
                self.close()

    def close(self) -> None:
        """Write the trace if one is under way and has a step. PyTorch waits for the GPU first."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        if not self._traced:
            return
        self._dir.mkdir(parents=True, exist_ok=True)
        path = self._dir / f"rank{self._rank}-steps-{self._traced[0]}-{self._traced[-1]}.json.gz"
        partial = path.with_name(f"{os.getpid()}.partial.{path.name}")  # the ending tells PyTorch to compress
        profiler.export_chrome_trace(str(partial))
        os.replace(partial, path)
