"""A Chrome trace of some steps (open it at chrome://tracing or in Perfetto)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import ConfigError

if TYPE_CHECKING:
    from torch.profiler import profile


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
        self._seen: tuple[int, int] = (0, 0)

    def before_step(self, step: int) -> None:
        """Call before the work of `step` begins."""
        if self._profiler is None and self._first <= step <= self._last:
            from torch.profiler import profile

            self._profiler = profile()  # the CPU, and the GPU where there is one
            self._seen = (step, step)
            self._profiler.start()

    def after_step(self, step: int) -> Path | None:
        """Call when the work of `step` has been queued; returns the trace's path when it has been written."""
        if self._profiler is None:
            return None
        self._seen = (self._seen[0], step)
        return self.close() if step >= self._last else None

    def close(self) -> Path | None:
        """Write what has been traced, if a trace is under way. PyTorch waits for the GPU first."""
        if self._profiler is None:
            return None
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        self._dir.mkdir(parents=True, exist_ok=True)
        path = self._dir / f"rank{self._rank}-steps-{self._seen[0]}-{self._seen[1]}.json.gz"
        partial = path.with_name(f"{os.getpid()}.partial.{path.name}")  # the ending tells PyTorch to compress
        profiler.export_chrome_trace(str(partial))
        os.replace(partial, path)
        return path
