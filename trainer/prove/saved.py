"""A cell's checkpoint against the one that one process wrote after the same step."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from safetensors import safe_open

from trainer.checkpoint.tensors import StoredTensors
from trainer.prove.compare import parameter_differences


def saved_differences(found: Path, canonical: Path, initial: Path) -> dict[str, float | None]:
    """How far each tensor of the checkpoint `found` is from `canonical`'s; None where it is missing, unknown or has another form.

    As for parameters after the last step: rms(a - b) / max(rms(b - initial), the RMS over all tensors of its kind). Optimizer
    state begins at 0.
    """
    ours, theirs = StoredTensors(found), StoredTensors(canonical)
    alike = [name for name, meta in theirs.metas.items() if ours.metas.get(name) == meta]
    apart: dict[str, float | None] = dict.fromkeys({*ours.metas, *theirs.metas})
    kinds: dict[str, list[str]] = {}
    for name in alike:
        kinds.setdefault(_kind(name), []).append(name)
    with safe_open(initial, "np") as start:
        for kind, names in kinds.items():

            def before(name: str, kind: str = kind) -> np.ndarray:
                return start.get_tensor(name.removeprefix("model.")) if kind == "model" else np.zeros(theirs.metas[name].shape)

            found_apart = parameter_differences(names, lambda name: ours.read(name).numpy(), lambda name: theirs.read(name).numpy(), before)
            apart |= {name: value if math.isfinite(value) else None for name, value in found_apart.items()}
    return apart


def _kind(name: str) -> str:
    """ "model" or "optim.KEY"."""
    return "model" if name.startswith("model.") else ".".join(name.split(".")[:2])
