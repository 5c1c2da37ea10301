"""Ranks that DeepSpeed is to run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests import ranks


def run(world_size: int, function: Callable[..., Any], *args: Any, timeout: float = 60.0) -> list[Any]:
    """`ranks.run`, with what takes long to import there before they are forked."""
    return ranks.run(world_size, function, *args, timeout=timeout, preload=["trainer.strategies.deepspeed_engine"])
