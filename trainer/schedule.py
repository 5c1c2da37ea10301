"""Learning rate as a pure function of the step: it holds no state, so it resumes anywhere."""

from __future__ import annotations

import math

from trainer.sections import OptimConfig, ScheduleName


def lr_factor(optim: OptimConfig, step: int, max_steps: int) -> float:
    """The factor on `optim.lr` for optimizer step `step` (1 is the first).

    Warm-up rises linearly and reaches 1 at step `warmup_steps`; the rest follows `optim.schedule`
    and ends at `final_ratio` at step `max_steps`. WSD: warm-up, stable, linear decay
    (Hu et al. 2024, arXiv:2404.06395).
    """
    if step <= optim.warmup_steps:
        return step / optim.warmup_steps
    if optim.schedule is ScheduleName.constant:
        return 1.0
    first = optim.warmup_steps
    if optim.schedule is ScheduleName.wsd:
        first = max(first, max_steps - round(optim.decay_fraction * max_steps))
    if step <= first:
        return 1.0
    done = min(1.0, (step - first) / max(1, max_steps - first))
    if optim.schedule is ScheduleName.cosine:
        done = (1 - math.cos(math.pi * done)) / 2
    return 1.0 - (1.0 - optim.final_ratio) * done
