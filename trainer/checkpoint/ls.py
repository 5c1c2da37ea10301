"""Which checkpoints a run directory holds, and what of them can be seen without reading their tensors. No torch here."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.checkpoint.directory import MANIFEST, NAME, UNFINISHED, Damaged, has_manifest, list_named, read_manifest, step_of, unreadable
from trainer.errors import ConfigError, RunError
from trainer.units import aligned, count, size

NOT_FINISHED = "a save or a removal of it did not end"


@dataclass(frozen=True)
class Found:
    """A checkpoint's directory as it looks from outside."""

    path: Path
    manifest: dict[str, Any] | None
    """None: there is none, or it cannot be read."""
    bytes: int
    when: datetime
    state: str
    """"whole", as far as names and sizes tell, or why it is not."""


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
    manifest, state = None, f"not whole: {NOT_FINISHED}" if UNFINISHED in sizes or not sizes else f"not whole: {MANIFEST} is missing"
    if MANIFEST in sizes:
        try:
            manifest = read_manifest(path)
            missing = sorted(manifest["files"].keys() - sizes.keys())
            cut = sorted(name for name in manifest["files"].keys() & sizes.keys() if sizes[name] != _full_size(path / name))
            wrong = [f"{name} missing" for name in missing] + [f"{name} is not of its full size" for name in cut]
            state = f"not whole: {', '.join(wrong)}" if wrong else "whole"
        except Damaged:
            state = f"not whole: {MANIFEST} is damaged"
        except (ConfigError, RunError) as error:
            state = f"unknown: {error}"
        except OSError as error:
            state = f"unknown: {unreadable(path, error)}"
    return Found(path, manifest, sum(sizes.values()), when, state)


def _full_size(path: Path) -> int:
    """Bytes that the safetensors file at `path` must have, as its head says (its length in 8 bytes, then JSON); -1: it has no such head."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            return -1
        try:
            tensors = json.loads(file.read(length))
            return 8 + length + max((entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return -1


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
