"""The rows of labelled texts: CSV and Parquet as tables are read, and JSON lines as if they were one."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.arrays import chosen_for_eval
from trainer.data.labelled_text import JSON_LINES, LabelledText
from trainer.data.records import complaint
from trainer.data.shards import Unit
from trainer.data.spans import Document, Span, open_binary, whole_characters, whole_document
from trainer.data.table import Batch, batches, kinds
from trainer.errors import ConfigError, missing_extra

_LINES = 4096  # of JSON, at once


def check_columns(knobs: LabelledText) -> None:
    """Refuse files without the columns that `knobs` name.

    Raises:
        ConfigError: names the knob. Of JSON lines, what a line lacks is said when it is read.
    """
    for path in paths(knobs):
        if path.suffix.lower() in JSON_LINES:
            continue
        found = kinds(path)
        for key, name in (("text", knobs.text), ("target", knobs.target)):
            if name not in found:
                raise ConfigError(f"data.{key}: {path} has no column {name!r}; it has: {', '.join(found)}")
        if found[knobs.text]:
            raise ConfigError(f"data.text={knobs.text}: the column in {path} holds numbers, not text")


def paths(knobs: LabelledText) -> list[Path]:
    """The file, and that of the eval split if it has one of its own."""
    return [Path(path) for path in (knobs.path, knobs.eval_path) if path is not None]


def rows(knobs: LabelledText) -> Iterator[tuple[Batch, np.ndarray]]:
    """(a batch with both columns, (rows,) which of its rows are for evaluation), all files in order.

    Raises:
        ConfigError: a file that is broken; names it, and the row or line.
    """
    for number, path in enumerate(paths(knobs)):
        names = [knobs.text, knobs.target]
        for batch in _json_batches(path, names) if path.suffix.lower() in JSON_LINES else batches(path, names):
            if knobs.eval_path is not None:
                yield batch, np.full(batch.rows, number == 1)
            else:
                yield batch, chosen_for_eval(batch.first, batch.rows, knobs.seed, knobs.eval_fraction)


def units(knobs: LabelledText) -> list[Unit]:
    """The work of tokenising: the texts of each split, in the order of `rows`."""
    size = sum(path.stat().st_size for path in paths(knobs))
    return [Unit((SplitSpan(knobs, split, size),), split, knobs.eval_fraction) for split in ("train", "eval")]


@dataclass(frozen=True)
class SplitSpan(Span):
    """The texts of one split. No token ends them: what follows a text is nothing that a class could be told from."""

    knobs: LabelledText
    split: str
    size: int

    def documents(self) -> Iterator[Document]:
        for batch, held_out in rows(self.knobs):
            chosen = np.flatnonzero(held_out == (self.split == "eval"))
            for row, text in zip(chosen.tolist(), batch.texts(self.knobs.text, chosen), strict=True):
                assert text is not None  # seen before anything is tokenised
                yield dataclasses.replace(whole_document(text, batch.where(self.knobs.text, row)), ends=False)


def _json_batches(path: Path, names: Sequence[str]) -> Iterator[Batch]:
    """Objects, one a line; the first of `names` is the text. Blank lines are no rows."""
    try:
        import pyarrow
    except ImportError as error:
        raise missing_extra("pyarrow", "tabular", "data=labelled_text") from error
    first = 0
    with open_binary(path) as file:
        lines = ((f"{path}:{number}", line) for number, line in enumerate(file, 1) if not line.isspace())
        while found := [_record(where, line, names) for where, line in itertools.islice(lines, _LINES)]:
            columns = {name: pyarrow.array(cells, pyarrow.string()) for name, cells in zip(names, zip(*found, strict=True), strict=True)}
            yield Batch(path, first, columns, len(found))
            first += len(found)


def _record(where: str, line: bytes, names: Sequence[str]) -> list[str | None]:
    """The cells of one line."""
    try:
        record = json.loads(line.rstrip(b"\r\n"))
    except ValueError as error:  # bytes that are not UTF-8 too
        raise ConfigError(f"{where}: {complaint(error, names[0])}") from error
    if not isinstance(record, dict):
        raise ConfigError(f"{where}: is a JSON {type(record).__name__}, not an object with the fields {' and '.join(map(repr, names))}")
    for key, name in zip(("text", "target"), names, strict=True):
        if name not in record:
            raise ConfigError(f"{where}: has no field {name!r} (data.{key}); its fields are: {', '.join(record) or 'none'}")
    text, label = (record[name] for name in names)
    if text is not None and not isinstance(text, str):
        raise ConfigError(f"{where}: the field {names[0]!r} is a JSON {type(text).__name__}, not a string")
    if isinstance(label, list | dict):
        raise ConfigError(f"{where}: the field {names[1]!r} is a JSON {type(label).__name__}, not a class")
    return [_cell(text), _cell(label)]


def _cell(value: Any) -> str | None:
    if value is None:
        return None
    return whole_characters(value) if isinstance(value, str) else json.dumps(value)
