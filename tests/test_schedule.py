"""Learning rates, computed by hand."""

from __future__ import annotations

import pytest

from trainer.schedule import lr_factor
from trainer.sections import OptimConfig, ScheduleName


def factors(steps: int, **knobs: object) -> list[float]:
    return [lr_factor(OptimConfig(**knobs), step, steps) for step in range(1, steps + 1)]  # type: ignore[arg-type]


def test_constant_after_warm_up() -> None:
    assert factors(5, schedule=ScheduleName.constant, warmup_steps=3) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1])


def test_linear() -> None:
    assert factors(6, schedule=ScheduleName.linear, warmup_steps=2, final_ratio=0.2) == pytest.approx([0.5, 1, 0.8, 0.6, 0.4, 0.2])


def test_cosine() -> None:
    """From 1 to 0.1 in 4 steps: 0.1 + 0.9 (1 + cos(pi k / 4)) / 2."""
    assert factors(6, schedule=ScheduleName.cosine, warmup_steps=2, final_ratio=0.1) == pytest.approx([0.5, 1, 0.868198, 0.55, 0.231802, 0.1], abs=1e-6)


def test_wsd() -> None:
    """2 steps of warm-up, stable to step 6, and the last 40 % of 10 fall to 0.2."""
    expected = [0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    assert factors(10, schedule=ScheduleName.wsd, warmup_steps=2, decay_fraction=0.4, final_ratio=0.2) == pytest.approx(expected)


def test_wsd_whose_warm_up_reaches_into_its_decay() -> None:
    assert factors(4, schedule=ScheduleName.wsd, warmup_steps=3, decay_fraction=1.0, final_ratio=0.5) == pytest.approx([1 / 3, 2 / 3, 1, 0.5])


@pytest.mark.parametrize("schedule", list(ScheduleName))
def test_ends_of_every_schedule(schedule: ScheduleName) -> None:
    optim = OptimConfig(schedule=schedule, warmup_steps=0, final_ratio=0.1)
    assert lr_factor(optim, 1, 100) == pytest.approx(1.0, abs=0.02)
    assert lr_factor(optim, 100, 100) == pytest.approx(1.0 if schedule is ScheduleName.constant else 0.1)
    assert lr_factor(optim, 130, 100) == lr_factor(optim, 100, 100)


def test_warm_up_as_long_as_the_run() -> None:
    assert factors(4, schedule=ScheduleName.cosine, warmup_steps=4) == pytest.approx([0.25, 0.5, 0.75, 1.0])
