"""`drill.*` on the command line. They are this command's own: no run's config has them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from trainer import own_options
from trainer.errors import ConfigError

FAULTS = ["kill", "kill_saving", "stop_evaluating", "freeze", "damage", "full_disk", "nan"]
LEAST_STEPS = 6  # a checkpoint, then a fault, then another checkpoint before the end


@dataclass
class DrillOptions:
    """What is rehearsed."""

    steps: int | None = None
    """Optimizer steps of each run; null: 12, or `train.max_steps` if that is less."""
    seed: int | None = None
    """Fixes the random moments; null: another one each time."""
    faults: list[str] = field(default_factory=lambda: list(FAULTS))
    """Which, of `FAULTS`."""
    timeout: float = 600.0
    """Seconds after which a run is ended and has failed."""


def split(arguments: Sequence[str]) -> tuple[DrillOptions, list[str]]:
    """The options among `arguments`, and the rest.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    options, rest = own_options.split(arguments, "drill", DrillOptions)
    if options.steps is not None and options.steps < LEAST_STEPS:
        raise ConfigError(f"drill.steps={options.steps}: must be at least {LEAST_STEPS}, so that there is a checkpoint before a fault and one after it")
    if options.seed is not None and options.seed < 0:
        raise ConfigError(f"drill.seed={options.seed}: must be at least 0")
    if options.timeout <= 0:
        raise ConfigError(f"drill.timeout={options.timeout:g}: must be more than 0")
    if not options.faults:
        raise ConfigError("drill.faults=[]: give names of faults, such as [kill,damage]; left out, all are rehearsed")
    for name in options.faults:
        if name not in FAULTS:
            close = difflib.get_close_matches(name, FAULTS, n=1)
            raise ConfigError(f"drill.faults: there is no fault {name!r}" + (f"; did you mean {close[0]!r}?" if close else f" (known: {', '.join(FAULTS)})"))
    return options, rest
