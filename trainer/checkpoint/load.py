"""Reading a checkpoint, whatever strategy and number of ranks wrote it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

from trainer.checkpoint.directory import MODEL_IDENTITY, Damaged, read_manifest, sha256, unreadable
from trainer.checkpoint.reduction import DATA
from trainer.config import TARGET
from trainer.distributed import from_rank_0
from trainer.errors import ConfigError, RunError
from trainer.state import Position
from trainer.strategies.engine import Engine


def load(engine: Engine, path: Path, facts: Mapping[str, Any], *, strict: bool = True) -> Position:
    """Load the checkpoint at `path` into `engine`, whatever strategy and number of ranks wrote it. A collective.

    Without `strict` what fits is taken, and what does not is listed on the standard error of rank 0: it keeps the
    value that it has before the first step. An imported checkpoint has no optimizer state and no data to compare.

    Raises:
        Damaged: it is not what was written; what is wrong is named.
        ConfigError: it does not fit this model or the `facts` of this run; the difference is named.
        ConfigError, RunError: a file of it cannot be read (see `directory.unreadable`).
    """
    manifest = from_rank_0(lambda: read_manifest(path))
    _check_files(path, manifest["files"])
    imported = "imported_from" in manifest
    others = [] if imported else _check_same_data(path, manifest, facts, strict)
    position = Position(manifest["step"], manifest["tokens"], manifest.get("skipped", 0), tuple(manifest.get("passed_over", ())))
    engine.init_optimizer_state(position.updates)
    state = engine.state_dict()
    reader = HuggingFaceStorageReader(str(path))
    wanted = {name: value for name, value in state.items() if name.startswith("model.") or not imported}
    fitting = _check_fits(wanted, reader, path, strict, others, _other_knobs(manifest, facts))
    dcp.load(fitting, storage_reader=reader)
    engine.load_state_dict(state)
    return position


def _check_files(path: Path, files: Mapping[str, str]) -> None:
    """Every file of the manifest is there and has its content; the ranks share the work."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    wrong: list[str] = []
    refused: list[ConfigError | RunError] = []
    for name, digest in sorted(files.items())[rank::ranks]:
        try:
            if sha256(path / name) != digest:
                wrong.append(f"{name} is not what was written")
        except FileNotFoundError:
            wrong.append(f"{name} is missing")
        except OSError as error:
            refused.append(unreadable(path / name, error, f" on rank {rank}"))
    every: list[tuple[list[str], list[ConfigError | RunError]]] = [([], [])] * ranks
    dist.all_gather_object(every, (wrong, refused))
    if errors := [error for _, of_rank in every for error in of_rank]:
        raise errors[0]
    if problems := sorted(problem for of_rank, _ in every for problem in of_rank):
        raise Damaged(path, "; ".join(problems[:5]))


def _check_same_data(path: Path, manifest: Mapping[str, Any], facts: Mapping[str, Any], strict: bool) -> list[str]:
    """The step alone says which samples come next, so what the order of the data depends on must be the same.

    Returns what is not, which is accepted without `strict`.
    """
    there, here = manifest["config"]["train"], facts["config"]["train"]
    others = []
    for key in ("seed", "global_batch_size"):
        if there[key] != here[key]:
            if strict:
                raise ConfigError(
                    f"train.{key}={here[key]}: the checkpoint {path} was made with {there[key]}, and the samples that follow it depend on that; "
                    f"give train.{key}={there[key]}, or start again with checkpoint.resume=never or another run_dir="
                )
            others.append(f"train.{key} is {here[key]} here and {there[key]} there: the samples that follow are not those that would have followed")
    if manifest["data_fingerprint"] != facts["data_fingerprint"]:
        if strict:
            raise ConfigError(
                f"data: is not what the checkpoint {path} was trained on (fingerprint {facts['data_fingerprint']} here, {manifest['data_fingerprint']} there); "
                "give the same data, or start again with checkpoint.resume=never or another run_dir="
            )
        others.append(f"data is not what it was trained on (fingerprint {facts['data_fingerprint']} here, {manifest['data_fingerprint']} there)")
    return others


def _other_knobs(manifest: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """What makes this run's model another than the checkpoint's, also where all shapes are the same.

    Knobs that only one of them has are those of another version of the model.
    """
    there = manifest.get(MODEL_IDENTITY, {})
    here = json.loads(json.dumps(facts[MODEL_IDENTITY]))  # as a manifest gives it back
    if there.get(TARGET) != here.get(TARGET):
        return [f"model is {there[TARGET]} there and {here[TARGET]} here"] if TARGET in there and TARGET in here else []
    return [f"model.{key}={value} there and model.{key}={here[key]} here" for key, value in there.items() if key in here and here[key] != value]


def _check_fits(state: dict[str, Any], reader: HuggingFaceStorageReader, path: Path, strict: bool, others: list[str], knobs: list[str]) -> dict[str, Any]:
    """What of `state` the checkpoint has in the same shape: all of it, unless not `strict`; then the rest is listed after `others` and `knobs`."""
    metas = reader.read_metadata().state_dict_metadata  # type: ignore[union-attr]
    stored = {name: tuple(meta.size) for name, meta in metas.items() if not name.startswith(DATA)}  # type: ignore[union-attr]
    wanted = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}
    missing, unknown = sorted(wanted.keys() - stored.keys()), sorted(stored.keys() - wanted.keys())
    differing = [name for name in sorted(wanted.keys() & stored.keys()) if stored[name] != wanted[name]]
    problems = [f"{name} is {stored[name]} there and {wanted[name]} here" for name in differing]
    problems += [f"{name} is missing there" for name in missing] + [f"{name} is unknown here" for name in unknown]
    fitting = {name: value for name, value in state.items() if name not in {*missing, *differing}}
    if (knobs or problems) and strict:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise ConfigError(
            f"{path}: does not fit this model and optimizer: {'; '.join([*knobs, *problems[:5]])}{more}. "
            "checkpoint.strict=false takes what fits and lists the rest"
        )
    if not any(name.startswith("model.") for name in fitting):
        raise ConfigError(f"{path}: nothing of it fits this model ({'; '.join(problems[:5])}); leave it with checkpoint.resume=never or another run_dir=")
    if (others or knobs or problems) and dist.get_rank() == 0:
        head = f"checkpoint.strict=false: of {path} {len(fitting)} tensors are taken, {len(problems)} do not fit"
        print("\n  ".join([head, *others, *knobs, *problems]), file=sys.stderr, flush=True)
    return fitting
