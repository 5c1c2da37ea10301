"""New rows of a table made into features as a checkpoint's `data_preparation` says: what `data=tabular` did to the rows that it was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.errors import ConfigError


def features(preparation: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(rows, features) float64 of rows that map names of columns to cells: numbers, or text as a CSV file has it; None or NaN is an empty cell.

    Columns that are no features are passed over. What data was reduced with is applied after this.

    Raises:
        ConfigError: a column that is missing, an empty cell without a fill, what is no finite number, a category that training did not have:
            names the column and the row, from 1.
    """
    return np.array([[value for column in preparation["columns"] for value in _values(column, row, number)] for number, row in enumerate(rows, 1)])


def _values(column: Mapping[str, Any], row: Mapping[str, Any], number: int) -> list[float]:
    name = column["name"]
    where = f"column {name!r}, row {number}"
    if name not in row:
        raise ConfigError(f"{where}: there is no such column; the row has: {', '.join(map(str, row))}")
    cell = row[name]
    empty = cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))
    if "categories" not in column:
        return [_number(column, cell, empty, where)]
    if empty:
        raise ConfigError(f"{where}: the cell is empty, and categories have no mean")
    if str(cell) not in column["categories"] and column["unseen"] == "zero":
        return [0.0] * len(column["categories"])
    if str(cell) not in column["categories"]:
        raise ConfigError(f"{where}: the category {str(cell)!r} is not in the training split, which has: {', '.join(column['categories'][:20])}")
    place = column["categories"].index(str(cell))
    return [float(place)] if column["encoding"] == "ordinal" else [float(each == place) for each in range(len(column["categories"]))]


def _number(column: Mapping[str, Any], cell: Any, empty: bool, where: str) -> float:
    if empty and column["fill"] is None:
        raise ConfigError(f"{where}: the cell is empty, and the data was prepared without data.missing=mean")
    try:
        value = float(column["fill"] if empty else cell)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: {cell!r} is not a number") from None
    if not math.isfinite(value):
        raise ConfigError(f"{where}: is {value}; it must be a finite number")
    return (value - column["shift"]) / column["scale"]
