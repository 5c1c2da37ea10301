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

_ROWS = 1 << 14  # of Parquet, at once, or fewer:
_CELLS = 1 << 23
_NUMBER = r"^[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity)$"
_BLOCK, _WIDE, _MOST = 1 << 20, 1 << 14, 1 << 26  # bytes of CSV at once; more below a wide header: a column costs some time in each block


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
            whole = pyarrow.types.is_integer(column.type)  # one above 2^53 becomes the nearest float
            values = column.cast(pyarrow.float64(), safe=not whole).to_numpy(zero_copy_only=False)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
            row = _first_that_is_no(column, [pyarrow.float64()])
            raise ConfigError(
                f"{self.where(name, row)}: {column[row].as_py()!r} is not a number; to take the column as categories: data.categorical=[{name}]"
            ) from error
        if np.isinf(values).any():
            raise ConfigError(f"{self.where(name, int(np.isinf(values).argmax()))}: is infinite")
        return values

    def parsed(self, name: str) -> np.ndarray:
        """(rows,) float64 without complaint: NaN where a cell is empty or no number."""
        import pyarrow
        import pyarrow.compute as pc

        column = self.columns[name]
        if pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type) or pyarrow.types.is_decimal(column.type):
            return column.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False)
        if not (pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)):
            return np.full(self.rows, np.nan)
        trimmed = pc.call_function("utf8_trim_whitespace", [column])
        fitting = pc.call_function("match_substring_regex", [trimmed], pc.MatchSubstringOptions(_NUMBER, ignore_case=True))
        return pc.call_function("if_else", [fitting, trimmed, pyarrow.scalar(None, trimmed.type)]).cast(pyarrow.float64()).to_numpy(zero_copy_only=False)

    def empty(self, name: str) -> np.ndarray:
        """(rows,) whether the cell is empty; a NaN is."""
        import pyarrow.compute as pc

        return pc.call_function("is_null", [self.columns[name]], pc.NullOptions(nan_is_null=True)).to_numpy(zero_copy_only=False)

    def categories(self, name: str) -> tuple[np.ndarray, list[str]]:
        """((rows,) places in the list, -1 where the cell is empty; the categories of this batch).

        Raises:
            ConfigError: cells that hold lists, records or bytes.
        """
        import pyarrow
        import pyarrow.compute as pc

        column = self.columns[name]
        try:
            if pyarrow.types.is_nested(column.type):
                raise pyarrow.ArrowInvalid("nested")
            if pyarrow.types.is_floating(column.type):
                column = pc.call_function("if_else", [pc.call_function("is_nan", [column]), pyarrow.scalar(None, column.type), column])
            if pyarrow.types.is_primitive(column.type):  # fewer to make text of
                column = column.dictionary_encode()
                names = column.dictionary.cast(pyarrow.string())
            else:
                column = column.cast(pyarrow.string()).dictionary_encode()
                names = column.dictionary
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
            raise ConfigError(
                f"{self.path}: column {name!r} holds {column.type}, which is neither numbers nor categories; leave it out of data.features"
            ) from error
        return column.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), names.to_pylist()

    def times(self, name: str) -> np.ndarray:
        """(rows,) float64 microseconds since 1970 of dates or times (in text: ISO 8601, without a zone UTC), NaN where the cell is empty.

        Raises:
            ConfigError: a cell that is none.
        """
        import pyarrow

        column, types = self.columns[name], self._time_types(name)
        for kind in types:
            try:
                return column.cast(kind).cast(pyarrow.int64()).cast(pyarrow.float64()).to_numpy(zero_copy_only=False)
            except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
                continue
        row = _first_that_is_no(column, types)
        raise ConfigError(f"{self.where(name, row)}: {column[row].as_py()!r} is not a number, a date or a time such as 2024-01-31 or 2024-01-31T12:30:00")

    def are_times(self, name: str) -> np.ndarray:
        """(rows,) whether the cell is a date or time, or empty."""
        column = self.columns[name]
        try:
            self.times(name)
        except ConfigError:
            types = self._time_types(name)
            return np.asarray([_fits(column, place, types) for place in range(self.rows)])
        return np.ones(self.rows, bool)

    def _time_types(self, name: str) -> list[Any]:
        import pyarrow

        kind = self.columns[name].type
        is_text = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
        return [pyarrow.timestamp("us", zone) for zone in ((None, "UTC") if is_text else (getattr(kind, "tz", None),))]

    def no_empty(self, name: str, empty: np.ndarray, advice: str) -> None:
        """Refuse the first of the cells that are `empty` (rows,)."""
        if empty.any():
            raise ConfigError(f"{self.where(name, int(empty.argmax()))}: the cell is empty; {advice}")

    def row_numbers(self) -> np.ndarray:
        """(rows,) int64, from 0."""
        return np.arange(self.first, self.first + self.rows, dtype="<i8")

    def texts(self, name: str, rows: np.ndarray) -> list[str | None]:
        """The cells of `rows` (places in this batch) as text; None where a cell is empty."""
        import pyarrow

        return self.columns[name].take(pyarrow.array(rows)).cast(pyarrow.string()).to_pylist()

    def where(self, name: str, row: int) -> str:
        """Row `row` of this batch, for people: rows count from 1, the header not included."""
        return f"{self.path}: column {name!r}, row {self.first + row + 1}"


def _fits(column: Any, place: int, types: Sequence[Any]) -> bool:
    """Whether a cell can be cast to one of `types`."""
    import pyarrow

    for kind in types:
        try:
            column.slice(place, 1).cast(kind)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
            continue
        return True
    return False


def _first_that_is_no(column: Any, types: Sequence[Any]) -> int:
    return next(place for place in range(len(column)) if not _fits(column, place, types))


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


def batches(path: Path, columns: Sequence[str], chosen: np.ndarray | None = None) -> Iterator[Batch]:
    """The table in order, a few megabytes at a time.

    Args:
        chosen: numbers of rows, from 0, rising: row groups of Parquet without any of them need not be read. None: all.

    Raises:
        ConfigError: the file is broken.
    """
    with _errors(path):
        for first, batch in _parquet_batches(path, columns, chosen) if path.suffix.lower() == ".parquet" else _csv_batches(path, columns):
            yield Batch(path, first, {name: batch.column(name) for name in columns}, batch.num_rows)


def _parquet_batches(path: Path, columns: Sequence[str], chosen: np.ndarray | None) -> Iterator[tuple[int, Any]]:
    """(number of its first row, batch)."""
    file = _parquet_file(path)
    ends = np.cumsum([0] + [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]).tolist()
    groups = range(file.num_row_groups)
    rows = min(_ROWS, max(1, _CELLS // max(1, len(columns))))
    parts = [(0, groups)] if chosen is None else [(ends[group], [group]) for group in groups if _any_in(chosen, ends[group], ends[group + 1])]
    for first, group in parts:
        for batch in file.iter_batches(rows, row_groups=list(group), columns=list(columns)):
            yield first, batch
            first += batch.num_rows


def _any_in(chosen: np.ndarray, first: int, end: int) -> bool:
    return bool(np.searchsorted(chosen, first) < np.searchsorted(chosen, end))


def _csv_batches(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """(number of its first row, batch)."""
    first = 0
    for batch in _csv_reader(path, columns):
        yield first, batch
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
    except MemoryError:
        raise  # which pyarrow's own is too: nothing is broken
    except PermissionError as error:
        raise unreadable(path, error) from error
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: is broken: {first_line(error)}") from error


def _parquet_file(path: Path) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path, memory_map=True, pre_buffer=False)  # a buffer would keep all that has been read, of a large file too much


def _csv_reader(path: Path, as_text: Sequence[str] | None) -> Any:
    """`as_text`: these columns, uninterpreted; None: all, of the type that the first block suggests."""
    import pyarrow
    from pyarrow import csv

    options = csv.ConvertOptions(strings_can_be_null=True)
    if as_text is not None:
        types = {name: pyarrow.string() for name in as_text}
        options = csv.ConvertOptions(strings_can_be_null=True, include_columns=list(as_text), column_types=types)
    with path.open("rb") as file:
        header = len(file.readline(_MOST))
    # With several threads errors do not say which row.
    one_thread = csv.ReadOptions(use_threads=False, block_size=min(_MOST, 1000 * header) if header > _WIDE else _BLOCK)
    return csv.open_csv(path, one_thread, csv.ParseOptions(newlines_in_values=True), options)
