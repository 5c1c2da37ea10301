"""Which checkpoints a run directory holds, and what of them can be seen without reading their tensors. No torch here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.checkpoint.directory import MANIFEST, read_manifest, step_of
from trainer.errors import ConfigError
from trainer.units import aligned, count, size


@dataclass(frozen=True)
class Found:
    """A checkpoint's directory as it looks from outside."""

    path: Path
    manifest: dict[str, Any] | None
    """None: there is none, or it cannot be read."""
    bytes: int
    when: datetime
    state: str
    """"whole", or why it is not."""


def checkpoints(path: Path) -> list[Path]:
    """`path` where it is a checkpoint, else those of the run directory `path`, oldest first, also half-written ones.

    Raises:
        ConfigError: it is neither.
    """
    if (path / MANIFEST).is_file():
        return [path]
    if not (path / "checkpoints").is_dir():
        raise ConfigError(f"{path}: is neither a checkpoint (a directory with {MANIFEST}) nor a run directory with checkpoints/")
    found = (entry for entry in (path / "checkpoints").iterdir() if re.fullmatch(r"step-\d+", entry.name))
    return sorted(found, key=step_of)


def newest(path: Path) -> Path:
    """`path` where it is a checkpoint, else the newest with a manifest of the run directory `path`.

    Raises:
        ConfigError: there is none.
    """
    whole = [entry for entry in checkpoints(path) if (entry / MANIFEST).is_file()]
    if not whole:
        raise ConfigError(f"{path}: has no whole checkpoint (a directory with {MANIFEST})")
    return whole[-1]


def look(path: Path) -> Found:
    """What can be said of the checkpoint at `path` from its manifest and the names and sizes of its files."""
    try:
        sizes = {file.name: file.stat().st_size for file in path.iterdir()}
        when = datetime.fromtimestamp((path / MANIFEST if MANIFEST in sizes else path).stat().st_mtime)
    except FileNotFoundError:
        return Found(path, None, 0, datetime.now(), "deleted meanwhile")
    manifest, state = None, f"not whole: no {MANIFEST}"
    if MANIFEST in sizes:
        try:
            manifest = read_manifest(path)
            missing = sorted(manifest["files"].keys() - sizes.keys())
            state = f"not whole: {', '.join(missing)} missing" if missing else "whole"
        except ConfigError:
            state = f"not whole: {MANIFEST} is damaged"
    return Found(path, manifest, sum(sizes.values()), when, state)


def table(found: Sequence[Found]) -> str:
    """A line for each checkpoint, below a head."""
    rows = [("STEP", "TOKENS", "STRATEGY", "RANKS", "SIZE", "WHEN", "STATE")]
    for one in found:
        facts = one.manifest or {}
        tokens = count(facts["tokens"]) if "tokens" in facts else "?"
        when = one.when.strftime("%Y-%m-%d %H:%M:%S")
        rows.append((str(step_of(one.path)), tokens, str(facts.get("strategy", "?")), str(facts.get("world_size", "?")), size(one.bytes), when, one.state))
    return aligned(rows, {2, 5, 6})
