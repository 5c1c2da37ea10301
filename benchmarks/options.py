"""What the command line chooses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """For every benchmark."""

    pairs: int | None
    """Pairs for each ratio; None: each benchmark's own number, more where the interval is still too wide."""
    quick: bool
    """The fewest pairs that have an interval, small work only: to see that it runs."""
    strategies: tuple[str, ...]
    """For `step` and `save`."""
