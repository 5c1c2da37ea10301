"""Plain values as the loop hands them to callbacks."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.state import RunInfo, StepInfo


@pytest.fixture
def run_info(tmp_path: Path) -> Callable[..., RunInfo]:
    def make(**changes: Any) -> RunInfo:
        values: dict[str, Any] = {
            "run_dir": tmp_path,
            "config": {"train": {"max_steps": 20}, "checkpoint": {"resume": "auto"}},
            "strategy": "fsdp",
            "world_size": 2,
            "device": "cpu",
            "model": "GPT",
            "parameters": 3_145_728,
            "first_step": 1,
            "max_steps": 20,
            "last_step": 20,
            "flops_per_token": 2e6,
            "flops_formula": "6 x parameters",
            "peak_flops": 1e9,
            "peak_source": "measured",
            "data": {"samples": 1000, "unigram_entropy": 3.21, "fingerprint": "abc"},
        }
        return RunInfo(**{**values, **changes})

    return make


@pytest.fixture
def step_info() -> Callable[..., StepInfo]:
    """A step whose rates follow from tokens and seconds, as the loop computes them."""

    def make(step: int, *, tokens: int = 100, seconds: float = 0.5, loss: float = 2.0, peak: float = 1e9, **changes: Any) -> StepInfo:
        rate = tokens / seconds
        values: dict[str, Any] = {
            "step": step,
            "loss": loss,
            "grad_norm": 1.0,
            "lr": 1e-3,
            "tokens": step * tokens,
            "step_seconds": seconds,
            "data_seconds": 0.01,
            "tokens_per_second": rate,
            "mfu": 2e6 * rate / peak if math.isfinite(peak) else math.nan,
            "memory_bytes": 300 * 2**20,
        }
        return StepInfo(**{**values, **changes})

    return make
