"""Which checkpoints a run directory holds, and what of them can be seen without reading their tensors. No torch here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.checkpoint.directory import MANIFEST, NAME, Damaged, has_manifest, list_named, read_manifest, step_of, unreadable
from trainer.errors import ConfigError, RunError
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
        ConfigError, RunError: see `unreadable`.
    """
    if has_manifest(path):
        return [path]
    if not (path / "checkpoints").is_dir():
        raise ConfigError(f"{path}: is neither a checkpoint (a directory with {MANIFEST}) nor a run directory with checkpoints/")
    return list_named(path)


def newest(path: Path) -> Path:
    """`path` where it is a checkpoint, else the newest with a manifest of the run directory `path`.

    Raises:
        ConfigError: there is none.
        ConfigError, RunError: see `unreadable`; it may well be the newest.
    """
    whole = [entry for entry in checkpoints(path) if has_manifest(entry)]
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
    except OSError as error:
        return Found(path, None, 0, datetime.fromtimestamp(path.stat().st_mtime), f"unknown: {unreadable(path, error)}")
    manifest, state = None, f"not whole: no {MANIFEST}"
    if MANIFEST in sizes:
        try:
            manifest = read_manifest(path)
            missing = sorted(manifest["files"].keys() - sizes.keys())
            state = f"not whole: {', '.join(missing)} missing" if missing else "whole"
        except Damaged:
            state = f"not whole: {MANIFEST} is damaged"
        except (ConfigError, RunError) as error:
            state = f"unknown: {error}"
    return Found(path, manifest, sum(sizes.values()), when, state)


def table(found: Sequence[Found]) -> str:
    """A line for each checkpoint, below a head."""
    rows = [("STEP", "TOKENS", "STRATEGY", "RANKS", "SIZE", "WHEN", "STATE")]
    for one in found:
        facts = one.manifest or {}
        tokens = count(facts["tokens"]) if "tokens" in facts else "?"
        when = one.when.strftime("%Y-%m-%d %H:%M:%S")
        rows.append((_step(one), tokens, str(facts.get("strategy", "?")), str(facts.get("world_size", "?")), size(one.bytes), when, one.state))
    return aligned(rows, {2, 5, 6})


def _step(found: Found) -> str:
    """The step as the manifest says, else as the name does, else the name: it may be a copy, or one that was set aside."""
    name = os.path.basename(os.path.abspath(found.path))
    if found.manifest is not None:
        return str(found.manifest["step"])
    return str(step_of(Path(name))) if NAME.fullmatch(name) else name
