"""When each optimizer step of this process ended, by a hook that every framework passes through."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

PATH, STEPS = "BENCHMARK_MARKS", "BENCHMARK_STEPS"


def install() -> None:
    """Note the time after each step; after the last write all of them, and this process's peak memory, to a file."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from trainer.memory import peak_bytes

    times: list[float] = []
    directory, steps = Path(os.environ[PATH]), int(os.environ[STEPS])

    def note(*_: Any) -> None:
        times.append(time.time())
        if len(times) == steps:
            path = directory / f"rank-{os.environ['RANK']}.json"
            path.write_text(json.dumps({"times": times, "peak": peak_bytes("cpu")}), encoding="utf-8")

    register_optimizer_step_post_hook(note)
