"""What was exported of a run, from its files. Nothing here imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.units import size

EXPORTED, FIGURES = "export", "export.json"
HEAD = ("file", "size", "error, share of PyTorch's norm", "peak memory", "latency")


def exports(run_dir: Path) -> dict[str, Any]:
    """File names under `run_dir`/export with their figures; none where nothing was exported."""
    path = run_dir / EXPORTED / FIGURES
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What `HEAD` names, for each file."""
    return [
        (
            name,
            size(one["bytes"]),
            f"{one['error']:.3g} (at most {one['tolerance']:g})",
            "–" if one["peak_memory_bytes"] is None else size(one["peak_memory_bytes"]),
            "; ".join(_latency(batch, times) for batch, times in one["latency"].items()) or "–",
        )
        for name, one in found.items()
    ]


def _latency(batch: str, times: Mapping[str, Any]) -> str:
    one, other = times["pytorch"]["median"], times["exported"]["median"]
    return f"batch {batch} {other * 1e3:.3g} ms, {other / one:.3g} x PyTorch's"
