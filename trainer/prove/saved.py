"""A cell's checkpoint against the one that one process wrote after the same step."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

from trainer.prove.compare import parameter_differences


def saved_differences(found: Path, canonical: Path, initial: Path) -> dict[str, float | None]:
    """How far each tensor of the checkpoint `found` is from `canonical`'s; None where it is missing, unknown or has another form.

    As for parameters after the last step: rms(a - b) / max(rms(b - initial), the RMS over all tensors of its kind). Optimizer
    state begins at 0.
    """
    ours, theirs = _tensors(found), _tensors(canonical)
    alike = [name for name in theirs if name in ours and (ours[name].shape, ours[name].dtype) == (theirs[name].shape, theirs[name].dtype)]
    apart: dict[str, float | None] = dict.fromkeys({*ours, *theirs})
    kinds: dict[str, list[str]] = {}
    for name in alike:
        kinds.setdefault(_kind(name), []).append(name)
    with safe_open(initial, "np") as start:
        for kind, names in kinds.items():

            def before(name: str, kind: str = kind) -> np.ndarray:
                return start.get_tensor(name.removeprefix("model.")) if kind == "model" else np.zeros_like(theirs[name])

            found_apart = parameter_differences(names, ours.__getitem__, theirs.__getitem__, before)
            apart |= {name: value if math.isfinite(value) else None for name, value in found_apart.items()}
    return apart


def _kind(name: str) -> str:
    """ "model" or "optim.KEY"."""
    return "model" if name.startswith("model.") else ".".join(name.split(".")[:2])


def _tensors(path: Path) -> dict[str, np.ndarray]:
    reader = HuggingFaceStorageReader(str(path))
    metadata = reader.read_metadata().state_dict_metadata
    state = {name: torch.empty(item.size, dtype=item.properties.dtype) for name, item in metadata.items()}  # type: ignore[union-attr]
    dcp.load(state, storage_reader=reader, no_dist=True)
    return {name: value.numpy() for name, value in state.items()}
