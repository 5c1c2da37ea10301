"""Starting the ranks again after one has died, from the last checkpoint, on as many or fewer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.checkpoint.directory import newest_step
from trainer.errors import Stopped, run_again
from trainer.launchers.ranks import RankDied
from trainer.signals import NOT_BEGUN
from trainer.validate import largest_world_size

if TYPE_CHECKING:
    from trainer.config import Config


def with_restarts(config: Config, ranks: int, run_ranks: Callable[[int], None], room: Callable[[int], int], asked: Sequence[int]) -> None:
    """`run_ranks(ranks)`; where it raises `RankDied`, up to `run.max_restarts` times again, with `run.min_ranks` on fewer ranks if need be.

    `room(ranks)` says on how many of `ranks` the next start could run; it is asked where fewer are allowed.

    Raises:
        Stopped: `asked` became non-empty between two starts.
        Whatever `run_ranks` raises in the last start.
    """
    assert config.run_dir is not None
    run_dir, restarts, without_progress = Path(config.run_dir), config.run.max_restarts, None
    for restart in range(1, restarts + 2):
        if asked:
            raise Stopped(NOT_BEGUN if restart == 1 else f"before training went on; {run_again(run_dir, config.checkpoint.resume)} to go on")
        try:
            run_ranks(ranks)
            return
        except RankDied as error:
            if restart > restarts or asked:
                raise
            newest = newest_step(run_dir)
            fewer = _fewer(config, ranks, room, again=newest == without_progress)
            without_progress = None if fewer else newest
            changed = f", on {fewer} rank{'' if fewer == 1 else 's'} instead of {ranks}" if fewer else ""
            print(f"{error}\nrestart {restart} of {restarts} from the last checkpoint{changed}", file=sys.stderr)
            ranks = fewer or ranks


def _fewer(config: Config, ranks: int, room: Callable[[int], int], again: bool) -> int | None:
    """On how many less than `ranks` to go on after one has died, `again` without a new checkpoint; None: on as many."""
    if config.run.min_ranks is None:
        return None
    most = min(ranks - 1 if again else ranks, room(ranks))
    return largest_world_size(config, most) if most < ranks else None
