"""The reduction of the data's dimension in a checkpoint: its arrays as tensors beside the model's, the rest in the manifest.

A checkpoint alone tells what its model is given: `reduction` reads it back, and `prepare` has the data use it, not a fit of its own
that another machine's rounding might turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.directory import Damaged, find, read_manifest
from trainer.checkpoint.tensors import StoredTensors
from trainer.data.base import Data
from trainer.data.reduce import Reducible
from trainer.data.reduced import have
from trainer.data.reduction import ARRAYS, Reduction
from trainer.distributed import from_rank_0

REDUCTION = "reduction"
"""Key of the facts of a checkpoint (a `Reduction`) and of its manifest (`Reduction.facts`)."""
DATA = "data."
"""What the names of tensors begin with that are of the data, not of the model or its optimizer."""
_TENSORS = f"{DATA}reduction."


def with_tensors(state: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`state` with the tensors of the reduction in `facts`, if there is one, and `facts` as a manifest holds them."""
    if not isinstance(found := facts.get(REDUCTION), Reduction):
        return dict(state), dict(facts)
    tensors = {f"{_TENSORS}{name}": torch.from_numpy(array) for name, array in found.arrays().items() if array.size}
    return {**state, **tensors}, {**facts, REDUCTION: found.facts()}


def reduction(path: Path) -> Reduction | None:
    """What the data of the checkpoint at `path` was reduced with; None: it was not.

    Raises:
        Damaged: it is not what was written.
    """
    facts = read_manifest(path).get(REDUCTION)
    if facts is None:
        return None
    try:
        stored = StoredTensors(path)
        arrays = {name: stored.read(_TENSORS + name).numpy() for name in ARRAYS if _TENSORS + name in stored.metas}
    except Exception as error:  # safetensors and torch raise what they like at a damaged file
        raise Damaged(path, f"the reduction of its data cannot be read ({type(error).__name__}: {error})") from error
    found = Reduction.restored(facts, arrays)
    if found.digest() != facts["sha256"]:
        raise Damaged(path, "the reduction of its data is not what was written")
    return found


def take(path: Path) -> None:
    """Have `data.open` in this and other processes find the reduction of the checkpoint at `path`.

    Raises:
        Damaged: it is not what was written.
    """
    if (found := reduction(path)) is not None:
        have(found)


def prepare(data: Data, run_dir: Path, resume: str, device: torch.device) -> None:
    """Before any rank opens `data` to go on as `resume` says: the checkpoint's reduction, or where there is none one that all ranks fit. A collective."""
    if isinstance(data, Reducible) and data.reduce is not None:
        if (found := from_rank_0(lambda: find(run_dir, resume))) is not None:
            with suppress(Damaged):  # that is said, and an older one taken, when it is loaded
                take(found)
        data.prepare(device)
