"""Text files as work for the tokeniser: which kind a file is, and its spans."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.data.cache import file_stamp
from trainer.data.tokenized import Inputs

if TYPE_CHECKING:
    from trainer.data.shards import Unit
    from trainer.data.spans import Span

UNIT = 4 << 20  # bytes of input in one unit of work


def file_inputs(named: Sequence[tuple[str, Path]], split: str | None, eval_fraction: float, text_field: str, separator: str | None) -> Inputs:
    """Files, each with the name that decides its split, in the order given, all to `split` (None: by hash)."""
    stamps = [[name, *file_stamp(path)] for name, path in named]
    work = functools.partial(_units, named, split, eval_fraction, text_field, separator)
    return Inputs([stamps, split, text_field, separator], work)


def _units(named: Sequence[tuple[str, Path]], split: str | None, eval_fraction: float, text_field: str, separator: str | None) -> list[Unit]:
    from trainer.data.shards import units_of

    spans = [span for name, path in named for span in _spans_of(path, name, text_field, separator)]
    return units_of(spans, split, eval_fraction, UNIT)


def _spans_of(path: Path, name: str, text_field: str, separator: str | None) -> list[Span]:
    from trainer.data.records import json_lines_spans, parquet_spans
    from trainer.data.spans import text_spans

    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return parquet_spans(path, text_field)
    length = path.stat().st_size
    if suffix in (".jsonl", ".ndjson"):
        return json_lines_spans(path, length, UNIT, text_field)
    return text_spans(path, name, length, UNIT, separator)
