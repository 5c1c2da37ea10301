"""Which launch a process belongs to: one command of a person, with every start of its ranks. Nothing here imports torch."""

from __future__ import annotations

import hashlib
import os
import secrets

from trainer.doctor.record import process_start
from trainer.run_lock import machine

VARIABLE = "TRAINER_LAUNCH"
RUN_ID, RESTART_COUNT = "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"


def new() -> str:
    """For a launcher that starts ranks, which passes it on to each of their starts."""
    return secrets.token_hex(8)


def from_env() -> str:
    """That of this rank: what its launcher passed on, or which torchrun has started it; "" where nothing starts ranks again.

    The torchrun of each machine has its own, which outlives restarts: `--rdzv-id` alone may be the same in the next launch.
    """
    if VARIABLE in os.environ or RUN_ID not in os.environ:
        return os.environ.get(VARIABLE, "")
    agent = os.getppid()
    return hashlib.sha256(f"{os.environ[RUN_ID]} {machine()} {agent} {process_start(agent)}".encode()).hexdigest()[:16]


def started_again() -> bool:
    """Whether torchrun starts the ranks again, in a launch that has an id ("none" is what `--rdzv-id` is when it is not given)."""
    return int(os.environ.get(RESTART_COUNT, "0")) > 0 and os.environ.get(RUN_ID, "none") != "none"
