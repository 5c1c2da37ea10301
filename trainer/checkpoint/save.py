"""Writing a checkpoint, the same under every strategy."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from trainer.checkpoint.directory import FORMAT_VERSION, MANIFEST, begin, directory, finish, is_lost, remove, sealed, set_aside, sha256
from trainer.checkpoint.reduction import with_tensors
from trainer.errors import RunError
from trainer.state import Position
from trainer.strategies.engine import Engine
from trainer.writing import write_whole

T = TypeVar("T")


class SaveFailed(RunError):
    """A checkpoint could not be written: the same on all ranks, and nothing of it is left where it could be removed."""


def save(engine: Engine, position: Position, run_dir: Path, facts: dict[str, Any]) -> Path:
    """Write a checkpoint; every rank writes its own part. A collective. Returns its directory.

    Raises:
        SaveFailed: see `write`.
    """
    return write(engine.state_dict(), position, run_dir, facts)


def write(state: dict[str, Any], position: Position, run_dir: Path, facts: Mapping[str, Any], group: dist.ProcessGroup | None = None) -> Path:
    """Write `state` (what `Engine.state_dict` gives) as a checkpoint. A collective of `group`. Returns its directory.

    Raises:
        SaveFailed: some rank could not write (a full disk, a quota, a directory that is read-only): on all ranks.
    """
    path, rank = directory(run_dir, position.step), dist.get_rank()
    state, facts = with_tensors(state, facts)

    def clear() -> None:
        if rank == 0:
            if is_lost(path):
                set_aside(path)
            elif path.exists():
                remove(path)  # did not get whole, or of the same step of the same run: written again
            begin(path)

    def digests() -> dict[str, str]:
        return {file.name: sha256(file) for file in sorted(path.glob(f"shard-{rank + 1:05d}-*"))}

    def commit() -> None:
        if rank == 0:
            files = {name: digest for of_rank in parts for name, digest in sorted(of_rank.items())}
            manifest = {"format_version": FORMAT_VERSION, **asdict(position), "files": files, **facts}
            write_whole(path / MANIFEST, json.dumps(sealed(manifest), indent=2))
            finish(path)

    try:
        _on_all_ranks(clear, path, group)
        _write_parts(state, path, group)
        parts = _on_all_ranks(digests, path, group)
        _on_all_ranks(commit, path, group)
    except SaveFailed:
        if rank == 0:  # after all have given up: its room is free again
            with suppress(OSError):
                remove(path)
        raise
    return path


def _on_all_ranks(work: Callable[[], T], path: Path, group: dist.ProcessGroup | None) -> list[T]:
    """What `work` returns on each rank. Where the system refuses something on one, all raise SaveFailed."""
    outcome: tuple[Any, str] = (None, "")
    try:
        outcome = (work(), "")
    except OSError as error:
        outcome = (None, _reason(error))
    every: list[tuple[Any, str]] = [(None, "")] * dist.get_world_size()
    dist.all_gather_object(every, outcome, group=group)
    _raise({rank: reason for rank, (_, reason) in enumerate(every) if reason}, path)
    return [result for result, _ in every]


def _write_parts(state: dict[str, Any], path: Path, group: dist.ProcessGroup | None) -> None:
    try:
        dcp.save(state, storage_writer=HuggingFaceStorageWriter(str(path), save_distributed=True), process_group=group)
    except dcp.api.CheckpointException as error:  # of all ranks, on all
        reasons = {rank: _reason(cause) for rank, (cause, _) in error.failures.items() if isinstance(cause, OSError)}
        if len(reasons) < len(error.failures):
            raise RuntimeError(str(error)) from error
        _raise(reasons, path)


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _raise(reasons: Mapping[int, str], path: Path) -> None:
    """`reasons`: rank to reason, of the ranks that failed."""
    if reasons:
        by_reason: dict[str, list[str]] = {}
        for rank, reason in sorted(reasons.items()):
            by_reason.setdefault(reason, []).append(str(rank))
        told = "; ".join(f"{reason} on rank{'' if len(ranks) == 1 else 's'} {', '.join(ranks[:8])}" for reason, ranks in by_reason.items())
        raise SaveFailed(f"{path} could not be written: {told}")
