"""Reading a table batch by batch: columns of numbers and columns of categories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.cache import unreadable
from trainer.data.records import first_line
from trainer.errors import ConfigError, missing_extra

_ROWS = 1 << 14  # of Parquet, at once


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a table."""

    path: Path
    first: int
    """The number of the first row, from 0."""
    columns: dict[str, Any]
    """pyarrow arrays by name."""
    rows: int

    def numbers(self, name: str) -> np.ndarray:
        """(rows,) float64, NaN where the cell is empty.

        Raises:
            ConfigError: a cell that is not a finite number.
        """
        import pyarrow
        import pyarrow.compute as pc

        column = self.columns[name]
        try:
            if pyarrow.types.is_string(column.type):
                column = pc.call_function("utf8_trim_whitespace", [column])
            values = column.cast(pyarrow.float64()).to_numpy(zero_copy_only=False)
        except pyarrow.ArrowInvalid as error:
            row = next(i for i, cell in enumerate(column.to_pylist()) if cell is not None and not _is_number(cell))
            raise ConfigError(
                f"{self.where(name, row)}: {column[row].as_py()!r} is not a number; to take the column as categories: data.categorical=[{name}]"
            ) from error
        if np.isinf(values).any():
            raise ConfigError(f"{self.where(name, int(np.isinf(values).argmax()))}: is infinite")
        return values

    def categories(self, name: str) -> tuple[np.ndarray, list[str]]:
        """((rows,) places in the list, -1 where the cell is empty; the categories of this batch)."""
        import pyarrow

        encoded = self.columns[name].cast(pyarrow.string()).dictionary_encode()
        return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary.to_pylist()

    def where(self, name: str, row: int) -> str:
        """Row `row` of this batch, for people: rows count from 1, the header not included."""
        return f"{self.path}: column {name!r}, row {self.first + row + 1}"


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def kinds(path: Path) -> dict[str, bool]:
    """The columns of a table, in order, and whether each holds numbers (in a CSV file: its first megabyte).

    Raises:
        ConfigError: the file cannot be read, or has two columns of one name.
    """
    with _errors(path):
        schema = _parquet_file(path).schema_arrow if path.suffix.lower() == ".parquet" else _csv_reader(path, None).schema
    if len(set(schema.names)) < len(schema.names):
        raise ConfigError(f"{path}: has two columns of one name: {', '.join(schema.names)}")
    from pyarrow import types

    return {field.name: types.is_integer(field.type) or types.is_floating(field.type) or types.is_decimal(field.type) for field in schema}


def batches(path: Path, columns: Sequence[str]) -> Iterator[Batch]:
    """The table in order, a few megabytes at a time.

    Raises:
        ConfigError: the file is broken.
    """
    first = 0
    with _errors(path):
        is_parquet = path.suffix.lower() == ".parquet"
        for batch in _parquet_file(path).iter_batches(_ROWS, columns=list(columns)) if is_parquet else _csv_reader(path, columns):
            yield Batch(path, first, {name: batch.column(name) for name in columns}, batch.num_rows)
            first += batch.num_rows


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turns what pyarrow raises about a file into an error that names it."""
    try:
        import pyarrow
    except ImportError as error:
        raise missing_extra("pyarrow", "tabular", "data=tabular") from error
    try:
        yield
    except PermissionError as error:
        raise unreadable(path, error) from error
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: is broken: {first_line(error)}") from error


def _parquet_file(path: Path) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path)


def _csv_reader(path: Path, as_text: Sequence[str] | None) -> Any:
    """`as_text`: these columns, uninterpreted; None: all, of the type that the first block suggests."""
    import pyarrow
    from pyarrow import csv

    options = csv.ConvertOptions(strings_can_be_null=True)
    if as_text is not None:
        types = {name: pyarrow.string() for name in as_text}
        options = csv.ConvertOptions(strings_can_be_null=True, include_columns=list(as_text), column_types=types)
    one_thread = csv.ReadOptions(use_threads=False)  # else errors do not say which row
    return csv.open_csv(path, one_thread, csv.ParseOptions(newlines_in_values=True), options)
