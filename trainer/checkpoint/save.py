"""Writing a checkpoint, the same under every strategy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from trainer.checkpoint.directory import FORMAT_VERSION, MANIFEST, directory, remove, sealed, sha256, write_whole
from trainer.state import Position
from trainer.strategies.engine import Engine


def save(engine: Engine, position: Position, run_dir: Path, facts: dict[str, Any]) -> Path:
    """Write a checkpoint; every rank writes its own part. A collective. Returns its directory."""
    path = directory(run_dir, position.step)
    rank = dist.get_rank()
    if rank == 0 and path.exists():
        remove(path)  # not whole, or of the same step of the same run: written again
    dist.barrier()
    dcp.save(engine.state_dict(), storage_writer=HuggingFaceStorageWriter(str(path), save_distributed=True))
    own = {file.name: sha256(file) for file in sorted(path.glob(f"shard-{rank + 1:05d}-*"))}
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
        write_whole(path / MANIFEST, json.dumps(sealed(manifest), indent=2))
    dist.barrier()
    return path
