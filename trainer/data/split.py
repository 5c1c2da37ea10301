"""python -m trainer.data split data=tabular data.path=FILE data.target=COLUMN data.split=RULE [key=value ...]: write the splits as files."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data import commands, splits
from trainer.data.table import batches
from trainer.data.table_write import check_names
from trainer.data.tabular import Tabular, Task
from trainer.errors import ConfigError

HELP = """Write FILE's rows to FILE.train and FILE.eval, of the same format, by the rule that training would use.

Options of this command beside those of python -m trainer:
  split.out=DIR              where (default: beside FILE)

Rules: data.split=hash|stratified|grouped|time with data.group=COLUMN, data.time=COLUMN, data.eval_fraction, data.seed."""


@dataclass
class SplitOptions:
    """Where to."""

    out: str | None = None
    """A directory; null: that of the table."""


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    return commands.run(arguments, "split", SplitOptions, HELP, split)


def split(knobs: Tabular, options: SplitOptions) -> int:
    """Write both files and say how many rows each has, of each class.

    Raises:
        ConfigError: the table cannot be split so, or a file is there already.
    """
    path = Path(knobs.path)
    if knobs.eval_path is not None:
        raise ConfigError(f"data.eval_path={knobs.eval_path}: is a split already; leave it out to split data.path")
    directory = path.parent if options.out is None else Path(options.out)
    out = {name: directory / f"{path.stem}.{name}{path.suffix}" for name in ("train", "eval")}
    for place in out.values():
        if place.exists():
            raise ConfigError(f"{place}: is there already; remove it, or say where with split.out=DIR")
    names = list(check_names(knobs, path))
    begin, _ = splits.rule(knobs, path)
    choose = begin()
    counts: dict[str, Counter[str]] = {name: Counter() for name in out}
    with ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write = {name: stack.enter_context(_writer(path, place, names)) for name, place in out.items()}
        except OSError as error:
            raise ConfigError(f"{directory}: cannot be written: {error.strerror}; say where with split.out=DIR") from error
        for batch in batches(path, names):
            is_eval = choose(batch)
            for name, rows in (("train", ~is_eval), ("eval", is_eval)):
                write[name](batch.columns, rows)
                counts[name].update(_classes(knobs, batch, rows))
        for name, count in counts.items():
            if not count.total():
                raise ConfigError(f"data.eval_fraction={knobs.eval_fraction}: the {name} split of {path} has no row")
    _say(out, counts, knobs)
    print(f"train with: data.path={out['train']} data.eval_path={out['eval']}")
    return 0


def _classes(knobs: Tabular, batch: Any, rows: np.ndarray) -> Iterator[str]:
    if knobs.task is Task.regression:
        return iter(["rows"] * int(rows.sum()))
    places, names = batch.categories(knobs.target)
    batch.no_empty(knobs.target, places < 0, "every row needs a target")
    return (names[place] for place in places[rows])


def _say(out: dict[str, Path], counts: dict[str, Counter[str]], knobs: Tabular) -> None:
    for name, count in counts.items():
        total = count.total()
        shares = ", ".join(f"{label} {many:,} ({many / total:.2%})" for label, many in sorted(count.items()))
        of = "" if knobs.task is Task.regression else f", {knobs.target}: {shares}"
        print(f"{name:<6}{out[name]}: {total:,} rows{of}")


@contextmanager
def _writer(source: Path, place: Path, names: Sequence[str]) -> Iterator[Callable[[dict[str, Any], np.ndarray], None]]:
    """Gives `write(columns, which rows)`. The file is whole or not there."""
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    with ExitStack() as stack:
        stack.callback(partial.unlink, missing_ok=True)
        if source.suffix.lower() == ".parquet":
            yield from _parquet(source, partial, names)
        else:
            yield from _csv(partial, names)
        os.replace(partial, place)


def _parquet(source: Path, partial: Path, names: Sequence[str]) -> Iterator[Callable[[dict[str, Any], np.ndarray], None]]:
    import pyarrow
    import pyarrow.parquet

    kept = pyarrow.parquet.ParquetFile(source).schema_arrow
    with pyarrow.parquet.ParquetWriter(partial, kept) as writer:

        def write(columns: dict[str, Any], rows: np.ndarray) -> None:
            writer.write_table(pyarrow.table([columns[name] for name in names], schema=kept).filter(pyarrow.array(rows)))

        yield write


def _csv(partial: Path, names: Sequence[str]) -> Iterator[Callable[[dict[str, Any], np.ndarray], None]]:
    import pyarrow

    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)

        def write(columns: dict[str, Any], rows: np.ndarray) -> None:
            writer.writerows(zip(*(columns[name].filter(pyarrow.array(rows)).to_pylist() for name in names), strict=True))

        yield write
