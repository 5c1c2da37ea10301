"""Checkpoints under `run_dir`/checkpoints, the same under every strategy.

PyTorch Distributed Checkpoint plans who writes what; the storage is safetensors (no pickle), under
canonical names: `model.NAME` in fp32 and `optim.KEY.NAME`. `manifest.json` is written last: a
directory without it is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from trainer.errors import ConfigError
from trainer.strategies.engine import Engine

MANIFEST = "manifest.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Position:
    """How far training has come; with the seed it fixes the data that follows."""

    step: int
    tokens: int


def directory(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of `step` is kept."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def list_whole(run_dir: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path.parent for path in run_dir.glob(f"checkpoints/step-*/{MANIFEST}"))


def save(engine: Engine, position: Position, run_dir: Path, facts: dict[str, Any]) -> Path:
    """Write a checkpoint; every rank writes its own part. A collective. Returns its directory."""
    path = directory(run_dir, position.step)
    rank = dist.get_rank()
    if rank == 0 and path.exists():
        shutil.rmtree(path)  # not whole, or of the same step of the same run: written again
    dist.barrier()
    dcp.save(engine.state_dict(), storage_writer=HuggingFaceStorageWriter(str(path), save_distributed=True))
    own = {file.name: _sha256(file) for file in sorted(path.glob(f"shard-{rank + 1:05d}-*"))}
    every: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(every, own)
    if rank == 0:
        manifest = {
            "format_version": FORMAT_VERSION,
            "step": position.step,
            "tokens": position.tokens,
            "files": {name: digest for files in every for name, digest in sorted(files.items())},
            **facts,
        }
        write_whole(path / MANIFEST, json.dumps(manifest, indent=2))
    dist.barrier()
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all, and make sure that it is on the disk."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def remove_old(run_dir: Path, keep: int) -> None:
    """Delete all but the newest `keep` whole checkpoints. The manifest goes first. On rank 0 alone."""
    for path in list_whole(run_dir)[:-keep]:
        (path / MANIFEST).unlink()
        shutil.rmtree(path)


def find(run_dir: Path, resume: str) -> Path | None:
    """The checkpoint that `checkpoint.resume` ("auto", "never" or a path) means, or None.

    Raises:
        ConfigError: a path that is not a whole checkpoint.
    """
    if resume == "never":
        return None
    if resume == "auto":
        whole = list_whole(run_dir)
        return whole[-1] if whole else None
    path = Path(resume)
    if (path / MANIFEST).is_file():
        return path
    whole = list_whole(path)
    if whole:
        return whole[-1]
    raise ConfigError(
        f"checkpoint.resume={resume}: is neither a whole checkpoint (a directory with {MANIFEST}) nor a run directory with one; or use auto, never"
    )


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a whole checkpoint."""
    return json.loads((path / MANIFEST).read_text(encoding="utf-8"))


def load(engine: Engine, path: Path) -> Position:
    """Load the checkpoint at `path` into `engine`, whatever strategy and number of ranks wrote it. A collective.

    Raises:
        ConfigError: it does not fit this model; the difference is named.
    """
    manifest = read_manifest(path)
    if manifest["format_version"] > FORMAT_VERSION:
        raise ConfigError(f"{path}: has format {manifest['format_version']}, newer than {FORMAT_VERSION}, the newest that this version reads")
    position = Position(manifest["step"], manifest["tokens"])
    engine.init_optimizer_state(position.step)
    state = engine.state_dict()
    reader = HuggingFaceStorageReader(str(path))
    _check_fits(state, reader, path)
    dcp.load(state, storage_reader=reader)
    engine.load_state_dict(state)
    return position


def _check_fits(state: dict[str, Any], reader: HuggingFaceStorageReader, path: Path) -> None:
    stored = {name: tuple(meta.size) for name, meta in reader.read_metadata().state_dict_metadata.items()}  # type: ignore[union-attr]
    wanted = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}
    missing, unknown = sorted(wanted.keys() - stored.keys()), sorted(stored.keys() - wanted.keys())
    differing = [f"{name} is {stored[name]} there and {wanted[name]} here" for name in sorted(wanted.keys() & stored.keys()) if stored[name] != wanted[name]]
    problems = differing + [f"{name} is missing there" for name in missing] + [f"{name} is unknown here" for name in unknown]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise ConfigError(f"{path}: does not fit this model and optimizer: {'; '.join(problems[:5])}{more}")
