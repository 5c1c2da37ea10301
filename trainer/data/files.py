"""Text files as work for the tokeniser: which kind a file is, and its spans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.data.cache import file_stamp
from trainer.data.shards import Unit, units_of
from trainer.data.spans import Span, text_spans

UNIT = 4 << 20  # bytes of input in one unit of work


def file_inputs(named: Sequence[tuple[str, Path]], split: str | None, eval_fraction: float, text_field: str, separator: str | None) -> tuple[Any, list[Unit]]:
    """What identifies the files, and the work to tokenise them, in the order given."""
    stamps = [[name, *file_stamp(path)] for name, path in named]
    spans: list[Span] = []
    for (name, path), stamp in zip(named, stamps, strict=True):
        spans += spans_of(path, name, stamp[2], text_field, separator)
    return [stamps, split, eval_fraction, text_field, separator], units_of(spans, split, eval_fraction, UNIT)


def spans_of(path: Path, name: str, length: int, text_field: str, separator: str | None) -> list[Span]:
    """The spans of one file by its suffix; what is neither JSON lines nor Parquet is plain text."""
    return text_spans(path, name, length, UNIT, separator)
