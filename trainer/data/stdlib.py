"""`data=stdlib`: text that every machine with Python has."""

from __future__ import annotations

import os
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.data.files import file_inputs
from trainer.data.tokenized import Inputs, TokenizedText

LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "__pycache__"})
"""Not the library itself: other packages, its tests, programs, and text for help()."""


@dataclass(kw_only=True)
class StandardLibrary(TokenizedText):
    """The source of Python's standard library (PSF licence); a module is a document."""

    def source(self) -> str:
        return f"the standard library of Python {platform.python_version()}"

    def inputs(self) -> Inputs:
        root = Path(sysconfig.get_path("stdlib"))
        return file_inputs(sorted(_modules(root)), None, self.eval_fraction, "text", None)


def _modules(root: Path) -> Iterator[tuple[str, Path]]:
    """(path below `root`, path) of each module; what is left out is not even entered: it may be large."""
    for directory, inner, files in os.walk(root):
        inner[:] = sorted(set(inner) - LEFT_OUT)
        for name in files:
            if name.endswith(".py"):
                path = Path(directory, name)
                yield path.relative_to(root).as_posix(), path
