"""Parts of files whose records have a text field: JSON lines, Parquet, and Hugging Face data sets."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.cache import unreadable
from trainer.data.spans import ByteSpan, Document, Span, cuts, open_binary, whole_document
from trainer.errors import ConfigError, missing_extra

_ROWS = 256  # read at once from a table: a few MB of text


@dataclass(frozen=True)
class JsonLinesSpan(ByteSpan):
    """Part of a file of JSON objects, one a line."""

    text_field: str

    def documents(self) -> Iterator[Document]:
        with open_binary(self.path) as file:
            file.seek(self.start)
            number, at = 0, self.start
            while at < self.stop and (line := file.readline()):
                at += len(line)
                number += 1
                if line.isspace():
                    continue
                try:
                    text = _text_of(json.loads(line.rstrip(b"\r\n")), self.text_field)
                except (ValueError, TypeError, KeyError) as error:
                    where = f"{self.path}:{self._lines_before() + number}"
                    raise ConfigError(f"{where}: {complaint(error, self.text_field)}") from error
                if text:
                    yield whole_document(text, str(self.path))

    def _lines_before(self) -> int:
        left, lines = self.start, 0
        with open_binary(self.path) as file:
            while left and (block := file.read(min(left, 1 << 20))):
                lines += block.count(b"\n")
                left -= len(block)
        return lines


def _text_of(record: Any, field: str) -> str:
    if not isinstance(record, dict):
        raise TypeError(f"is a JSON {type(record).__name__}, not an object with the field {field!r}")
    if field not in record:
        raise KeyError(", ".join(record) or "none")
    if not isinstance(record[field], str):
        raise TypeError(f"the field {field!r} is a JSON {type(record[field]).__name__}, not a string")
    return record[field]


def complaint(error: Exception, field: str) -> str:
    """What is wrong with a line of JSON that should have the text in `field`."""
    match error:
        case json.JSONDecodeError():
            return f"is not JSON: {error.msg} (column {error.colno})"
        case UnicodeDecodeError():
            return f"is not UTF-8 text: byte 0x{error.object[error.start]:02x} at column {error.start + 1}"
        case KeyError():
            return f"has no field {field!r} (data.text_field); its fields are: {error.args[0]}"
        case _:
            return str(error)


def json_lines_spans(path: Path, length: int, target: int, text_field: str) -> list[Span]:
    """A JSON lines file cut at line ends."""
    return [JsonLinesSpan(path, start, stop, text_field) for start, stop in cuts(path, length, target, b"\n")]


@dataclass(frozen=True)
class ParquetSpan(Span):
    """One row group of a Parquet file."""

    path: Path
    text_field: str
    row_group: int
    first_row: int
    size: int

    def documents(self) -> Iterator[Document]:
        pyarrow = _pyarrow(self.path)
        row = self.first_row
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(_ROWS, row_groups=[self.row_group], columns=[self.text_field]):
                    for text in batch.column(0).to_pylist():
                        row += 1
                        if text is None:
                            raise ConfigError(f"{self.path}: row {row}: the column {self.text_field!r} is null")
                        if text:
                            yield whole_document(text, str(self.path))
        except (pyarrow.ArrowException, OSError) as error:
            raise ConfigError(f"{self.path}: is broken in row group {self.row_group}: {first_line(error)}") from error


def parquet_spans(path: Path, text_field: str) -> list[Span]:
    """A Parquet file by row groups.

    Raises:
        ConfigError: it is not Parquet, or has no such column of strings.
    """
    pyarrow = _pyarrow(path)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    except PermissionError as error:
        raise unreadable(path, error) from error
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: is not a whole Parquet file: {first_line(error)}") from error
    if text_field not in schema.names:
        raise ConfigError(f"{path}: has no column {text_field!r} (data.text_field); its columns are: {', '.join(schema.names)}")
    kind = schema.field(text_field).type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise ConfigError(f"{path}: the column {text_field!r} (data.text_field) is {kind}, not string")
    spans: list[Span] = []
    row = 0
    for number, group in enumerate(groups):
        spans.append(ParquetSpan(path, text_field, number, row, group.total_byte_size))
        row += group.num_rows
    return spans


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "tabular", f"{path}: a Parquet file") from error
    return pyarrow


def first_line(error: BaseException) -> str:
    """The gist of a library's error."""
    return str(error).strip().split("\n")[0]


@dataclass(frozen=True)
class RowsSpan(Span):
    """Rows [start, stop) of a Hugging Face data set (memory-mapped: only its file names travel)."""

    rows: Any
    name: str
    text_field: str
    start: int
    stop: int
    size: int

    def documents(self) -> Iterator[Document]:
        for first in range(self.start, self.stop, _ROWS):
            texts = self.rows[first : min(first + _ROWS, self.stop)][self.text_field]
            for row, text in enumerate(texts, first + 1):
                if not isinstance(text, str):
                    raise ConfigError(f"data.dataset={self.name}: row {row}: the column {self.text_field!r} is {type(text).__name__}, not a string")
                if text:
                    yield whole_document(text, f"row {row} of {self.name}")


def open_dataset(name: str, config: str | None, revision: str | None) -> dict[str, Any]:
    """The splits of a Hugging Face data set: a hub id, or a directory (of files, or written by `save_to_disk`).

    Raises:
        ConfigError: `datasets` is not installed, or cannot open it.
    """
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("datasets", "hf", f"data.dataset={name}") from error
    try:
        saved = Path(name) if (Path(name) / "state.json").exists() or (Path(name) / "dataset_dict.json").exists() else None
        found = datasets.load_from_disk(str(saved)) if saved else datasets.load_dataset(name, config, revision=revision)
    except Exception as error:  # scripts, network, formats: the library's own words are the best there are
        raise ConfigError(f"data.dataset={name}: cannot be opened: {first_line(error)}") from error
    return {str(split): rows for split, rows in found.items()} if isinstance(found, dict) else {"train": found}


def dataset_spans(rows: Any, name: str, text_field: str, target: int) -> list[Span]:
    """The rows of one split cut into spans of about `target` bytes."""
    if text_field not in rows.column_names:
        raise ConfigError(f"data.dataset={name}: has no column {text_field!r} (data.text_field); its columns are: {', '.join(rows.column_names)}")
    rows = rows.select_columns([text_field])
    total = max(int(rows.data.nbytes), 1)
    step = max(1, len(rows) * target // total)
    bounds = [*range(0, len(rows), step), len(rows)]
    return [RowsSpan(rows, name, text_field, a, b, total * (b - a) // len(rows)) for a, b in itertools.pairwise(bounds)]
