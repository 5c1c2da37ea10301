"""Which checkpoint a run goes on from."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from trainer.checkpoint.directory import LAUNCHES, MANIFEST, Damaged, find, list_lost, set_aside, written_by
from trainer.checkpoint.load import load
from trainer.distributed import from_rank_0
from trainer.errors import RunError
from trainer.state import Position
from trainer.strategies.engine import Engine


def resume(engine: Engine, run_dir: Path, wanted: str, facts: Mapping[str, Any], *, strict: bool = True) -> tuple[Position, Path | None]:
    """Load what `checkpoint.resume` (`wanted`) means into `engine`: where training goes on, and the checkpoint, if any. A collective.

    With "auto" a damaged checkpoint is kept aside, and the newest whole one is taken. Where this launch (see `facts`) has written
    checkpoints already, its ranks are started again: then the newest of those is taken in this way, whatever is `wanted`.

    Raises:
        ConfigError: there is none to go on from although there should be, or it does not fit.
        RunError: a damaged one cannot be kept aside.
    """

    def look() -> tuple[Path | None, bool]:
        own = [] if wanted == "auto" else written_by(run_dir, facts[LAUNCHES])
        return (own[-1], True) if own else (find(run_dir, wanted), wanted == "auto")

    while True:
        found, newest = from_rank_0(look)  # another node may not see the same files yet
        if newest and (lost := from_rank_0(lambda: list_lost(run_dir))):
            _keep_aside(lost[-1], f"its {MANIFEST} is missing")
            continue
        try:
            position = Position(0, 0) if found is None else load(engine, found, facts, strict=strict)
            return position, found
        except Damaged as error:
            if not newest or found is None:
                raise
            _keep_aside(found, error.what)


def _keep_aside(path: Path, what: str) -> None:
    try:
        aside = from_rank_0(lambda: set_aside(path))
    except OSError as error:
        raise RunError(f"{path}: is damaged ({what}), and cannot be renamed to be kept aside ({error.strerror})") from error
    if dist.get_rank() == 0:
        print(f"warning: {path} is damaged: {what}; it is kept aside as {aside.name}, and the newest whole checkpoint is taken", file=sys.stderr)
