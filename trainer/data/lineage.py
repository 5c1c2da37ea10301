"""Where samples come from and what was done to them, as plain values: the checkpoint's manifest, the report and the data card carry it."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import trainer
from trainer.data.progress import progress
from trainer.data.tabular import Encoding, Missing, Tabular, Unseen

_PIECE = 1 << 22  # bytes


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file of any size."""
    total = hashlib.sha256()
    with path.open("rb") as file, progress(f"sha256 of {path.name}", path.stat().st_size) as advance:
        while piece := file.read(_PIECE):
            total.update(piece)
            advance(len(piece))
    return total.hexdigest()


def source(path: Path, rows: int) -> dict[str, Any]:
    """What identifies a file."""
    return {"path": str(path), "sha256": file_sha256(path), "rows": rows}


def versions() -> dict[str, str]:
    """Of what made the samples."""
    return {"python": platform.python_version(), "trainer": trainer.__version__, "numpy": np.__version__, "pyarrow": version("pyarrow")}


def transforms(knobs: Tabular, numbers: int, categories: int, filled: Mapping[str, int]) -> list[str]:
    """What is done to a row, in order; `filled` is how many empty cells each column has that has some."""
    steps = []
    if knobs.missing is Missing.mean and filled:
        steps.append("empty numbers take the training split's mean: " + ", ".join(f"{name} ({count:,} cells)" for name, count in filled.items()))
    if numbers and knobs.standardize:
        steps.append(f"{numbers} column{'s'[: numbers != 1]} of numbers: minus the training split's mean, over its standard deviation")
    if categories:
        onehot = "one feature per category of the training split" + (", all 0 for others" if knobs.unseen is Unseen.zero else "")
        steps.append(
            f"{categories} column{'s'[: categories != 1]} of categories: {onehot if knobs.encoding is Encoding.onehot else 'the place in sorted order'}"
        )
    return [*steps, "float32"]
