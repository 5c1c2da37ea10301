"""`data=tabular`: the rows of a CSV or Parquet file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from trainer.assets import resolve_asset
from trainer.data.base import Data
from trainer.data.cache import cached, digest, file_stamp
from trainer.errors import ConfigError
from trainer.table_copied import TABLE

if TYPE_CHECKING:
    from trainer.data.table_samples import TableSamples

FORMAT = 2  # of the files in the cache


class Task(Enum):
    """classification: the target is a class; regression: a number."""

    classification = "classification"
    regression = "regression"


class Encoding(Enum):
    """onehot: one feature per category; ordinal: one feature, the category's place in sorted order."""

    onehot = "onehot"
    ordinal = "ordinal"


class Missing(Enum):
    """error: refuse the file; mean: take the training split's mean (numbers only)."""

    error = "error"
    mean = "mean"


@dataclass(kw_only=True)
class Tabular(Data):
    """A table converted once to memory-mapped float32 rows; whatever is fitted is fitted on the training split alone."""

    path: str = MISSING
    """A .csv (with a header) or .parquet file, or the name of a table that `python -m trainer.fetch` brought."""
    eval_path: str | None = None
    """A file of the same columns for the eval split. Null: `eval_fraction` of the rows of `path`."""
    target: str = MISSING
    """The column to predict."""
    task: Task = Task.classification
    features: list[str] = field(default_factory=list)
    """The columns to predict from, in order. Empty: all but the target."""
    categorical: list[str] = field(default_factory=list)
    """Columns taken as categories although they hold numbers; columns that hold text always are."""
    encoding: Encoding = Encoding.onehot
    """What a categorical column becomes."""
    missing: Missing = Missing.error
    """What to do with an empty cell."""
    standardize: bool = True
    """Shift and scale numbers to mean 0 and standard deviation 1 over the training split."""
    eval_fraction: float = 0.1
    """The share of rows, chosen by a stable hash of their number, that makes the eval split."""
    seed: int = 0
    """Of that hash."""

    def validate(self) -> None:
        for key, path in (("path", _table_file(self.path)), ("eval_path", self.eval_path)):
            if path is not None and Path(path).suffix.lower() not in (".csv", ".parquet"):
                raise ConfigError(f"data.{key}={path}: must be a .csv or .parquet file")
        if self.eval_path is None and not 0 < self.eval_fraction < 1:
            raise ConfigError(f"data.eval_fraction={self.eval_fraction}: must be above 0 and below 1, unless data.eval_path is given")
        if self.target in self.features:
            raise ConfigError(f"data.features={self.features}: must not hold data.target={self.target}")

    def open(self, split: str) -> TableSamples:
        return self.resolved()._open(split)

    def resolved(self) -> Tabular:
        """This, with the file where `path` names a fetched table."""
        return dataclasses.replace(self, path=_table_file(self.path))

    def _open(self, split: str) -> TableSamples:
        from trainer.data.arrays import map_rows
        from trainer.data.table_samples import Feature, TableSamples
        from trainer.data.table_write import write_table

        knobs = {item.name: str(getattr(self, item.name)) for item in dataclasses.fields(self)}
        stamps = [file_stamp(Path(path)) for path in (self.path, self.eval_path) if path is not None]
        place, index = cached("tabular", digest([FORMAT, stamps, knobs]), lambda place: write_table(self, place))
        columns = [Feature(*origin) for origin in index["columns"]]
        names = [column if category is None else f"{column}={category}" for column, category in columns]
        rows = map_rows(place / f"{split}.features", "<f4", [len(names)])
        labels = map_rows(place / f"{split}.labels", "<i8" if index["classes"] else "<f4", ())
        if not len(labels):
            if self.eval_path is not None or not any(index["files"].values()):
                raise ConfigError(f"{self.path if split == 'train' else self.eval_path or self.path}: has no rows")
            raise ConfigError(f"data.eval_fraction={self.eval_fraction}: the {split} split of {self.path} has no row")
        spec = {"features": len(names), "feature_names": names}
        facts = {"source": self.path, "target": self.target}
        if index["classes"]:
            spec["classes"] = len(index["classes"])
            facts |= {"class_names": index["classes"], "class_entropy": index["class_entropy"]}
        fingerprint = digest([split, index["sha256"], spec])
        source = Path(self.path if split == "train" or self.eval_path is None else self.eval_path)
        row_numbers = map_rows(place / f"{split}.rows", "<i8", ())
        stamp = stamps[source != Path(self.path)]
        return TableSamples(rows, labels, spec, fingerprint, facts, source=source, stamp=stamp, row_numbers=row_numbers, columns=columns)


def _table_file(path: str) -> str:
    """The file of a fetched table, which `data.path` names or is the directory of; else `path` itself.

    Raises:
        ConfigError: it has not been fetched.
    """
    fetched = Path(resolve_asset("data.path", path)) / TABLE
    return str(fetched) if fetched.is_file() else path
