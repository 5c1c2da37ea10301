"""A table that travels inside a package, as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

TABLE = "table.csv"


def convert(source: Path, directory: Path, title: str) -> None:
    """Copy `source` into `directory`: what `data.path` finds there."""
    shutil.copyfile(source, directory / TABLE)
