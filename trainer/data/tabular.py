"""`data=tabular`: the rows of a CSV or Parquet file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from trainer.assets import resolve_asset
from trainer.data.cache import cached, digest, file_stamp
from trainer.data.reduce import REDUCING, Reducible
from trainer.errors import ConfigError
from trainer.table_copied import TABLE

if TYPE_CHECKING:
    from trainer.data.table_samples import TableSamples

FORMAT = 3  # of the files in the cache


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


class Unseen(Enum):
    """error: refuse the file; zero: none of the column's one-hot features is 1."""

    error = "error"
    zero = "zero"


class Split(Enum):
    """hash: by each row's number; stratified: the same share of each class; grouped: rows of one group stay together; time: the last rows."""

    hash = "hash"
    stratified = "stratified"
    grouped = "grouped"
    time = "time"


@dataclass(kw_only=True)
class Tabular(Reducible):
    """A table converted once to memory-mapped float32 rows; whatever is fitted is fitted on the training split alone."""

    path: str = MISSING
    """A .csv (with a header) or .parquet file, or the name of a table that `python -m trainer.fetch` brought."""
    eval_path: str | None = None
    """A file of the same columns for the eval split. Null: `eval_fraction` of the rows of `path`."""
    target: str = MISSING
    """The column to predict."""
    task: Task = Task.classification
    features: list[str] = field(default_factory=list)
    """The columns to predict from, in order. Empty: all but the target, `group` and `time`."""
    categorical: list[str] = field(default_factory=list)
    """Columns taken as categories although they hold numbers; columns that hold text always are."""
    encoding: Encoding = Encoding.onehot
    """What a categorical column becomes."""
    missing: Missing = Missing.error
    """What to do with an empty cell."""
    unseen: Unseen = Unseen.error
    """What to do with a category that no training row has."""
    standardize: bool = True
    """Shift and scale numbers to mean 0 and standard deviation 1 over the training split."""
    eval_fraction: float = 0.1
    """The share of rows that makes the eval split."""
    split: Split = Split.hash
    """How these are chosen."""
    group: str | None = None
    """With split=grouped: the column whose equal cells belong together, such as a customer."""
    time: str | None = None
    """With split=time: the column of numbers, dates or times in whose order the last rows are for evaluation."""
    seed: int = 0
    """Of the hash by which rows or groups are chosen."""
    schema: str | None = None
    """A YAML file that says what the columns hold (python -m trainer.data validate writes one): a table that disagrees is refused."""

    def validate(self) -> None:
        super().validate()
        for key, path in (("path", _table_file(self.path)), ("eval_path", self.eval_path)):
            if path is not None and Path(path).suffix.lower() not in (".csv", ".parquet"):
                raise ConfigError(f"data.{key}={path}: must be a .csv or .parquet file")
        if self.eval_path is None and not 0 < self.eval_fraction < 1:
            raise ConfigError(f"data.eval_fraction={self.eval_fraction}: must be above 0 and below 1, unless data.eval_path is given")
        if self.eval_path is not None and self.split is not Split.hash:
            raise ConfigError(f"data.split={self.split.name}: has no effect with data.eval_path, which is the eval split; leave one of them out")
        for key, value, rule in (("group", self.group, Split.grouped), ("time", self.time, Split.time)):
            if value is None and self.split is rule:
                raise ConfigError(f"data.split={rule.name}: needs data.{key}=COLUMN")
            if value is not None and self.split is not rule:
                raise ConfigError(f"data.{key}={value}: has no effect with data.split={self.split.name}; it needs data.split={rule.name}")
        if self.split is Split.stratified and self.task is Task.regression:
            raise ConfigError("data.split=stratified: keeps the shares of classes, and data.task=regression has none; hash, grouped and time fit it")
        if self.unseen is Unseen.zero and self.encoding is Encoding.ordinal:
            raise ConfigError("data.unseen=zero: leaves all one-hot features 0, and data.encoding=ordinal has none; give data.unseen=error")
        if self.target in self.features:
            raise ConfigError(f"data.features={self.features}: must not hold data.target={self.target}")

    def open_whole(self, split: str) -> TableSamples:
        return self.resolved()._open(split)

    def resolved(self) -> Tabular:
        """This, with the file where `path` names a fetched table."""
        return dataclasses.replace(self, path=_table_file(self.path))

    def _open(self, split: str) -> TableSamples:
        from trainer.data import schema
        from trainer.data.arrays import map_rows
        from trainer.data.table_samples import Feature, TableSamples
        from trainer.data.table_write import write_table

        rules = None if self.schema is None else schema.load(Path(self.schema))
        knobs = {item.name: str(getattr(self, item.name)) for item in dataclasses.fields(self) if item.name not in ("schema", *REDUCING)}
        stamps = [file_stamp(Path(path)) for path in (self.path, self.eval_path) if path is not None]
        place, index = cached("tabular", digest([FORMAT, stamps, knobs, rules and rules.digest()]), lambda place: write_table(self, rules, place))
        columns = [Feature(*origin) for origin in index["columns"]]
        names = [column if category is None else f"{column}={category}" for column, category in columns]
        rows = map_rows(place / f"{split}.features", "<f4", [len(names)])
        labels = map_rows(place / f"{split}.labels", "<i8" if index["classes"] else "<f4", ())
        if not len(labels):
            if self.eval_path is not None or not any(index["files"].values()):
                raise ConfigError(f"{self.path if split == 'train' else self.eval_path or self.path}: has no rows")
            raise ConfigError(f"data.eval_fraction={self.eval_fraction}: the {split} split of {self.path} has no row")
        spec = {"features": len(names), "feature_names": names}
        facts = {"source": self.path, "target": self.target, "lineage": index["lineage"]}
        if index["classes"]:
            spec["classes"] = len(index["classes"])
            facts |= {"class_names": index["classes"], "class_entropy": index["class_entropy"]}
        fingerprint = digest([split, index["sha256"], spec])
        source = Path(self.path if split == "train" or self.eval_path is None else self.eval_path)
        row_numbers = map_rows(place / f"{split}.rows", "<i8", ())
        stamp = stamps[source != Path(self.path)]
        samples = TableSamples(rows, labels, spec, fingerprint, facts, source=source, stamp=stamp, row_numbers=row_numbers, columns=columns)
        samples.preparation = index["preparation"]
        return samples


def _table_file(path: str) -> str:
    """The file of a fetched table, which `data.path` names or is the directory of; else `path` itself.

    Raises:
        ConfigError: it has not been fetched.
    """
    fetched = Path(resolve_asset("data.path", path)) / TABLE
    return str(fetched) if fetched.is_file() else path
