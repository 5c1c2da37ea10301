"""Which rows of a table are for evaluation: a function of the file and the knobs alone, so the same for any number of ranks."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from trainer.data.arrays import chosen_for_eval, hashes
from trainer.data.table import Batch, batches, kinds
from trainer.data.tabular import Split, Tabular
from trainer.errors import ConfigError

Choose: TypeAlias = Callable[[Batch], np.ndarray]
"""Called with the batches of a table in order: (rows,) bool, which rows are for evaluation."""


def column_needed(knobs: Tabular) -> str | None:
    """The column that the split is made by, if there is one."""
    return {Split.hash: None, Split.stratified: knobs.target, Split.grouped: knobs.group, Split.time: knobs.time}[knobs.split]


def rule(knobs: Tabular, path: Path) -> tuple[Callable[[], Choose], dict[str, Any]]:
    """(what begins a pass over the table, the rule as plain values for the lineage).

    Raises:
        ConfigError: cells that cannot be split by (names the row), or a time that all rows share.
    """
    told = {"rule": knobs.split.name, "eval_fraction": knobs.eval_fraction}
    if knobs.split is Split.time:
        cut, is_number = _time_cut(knobs, path)
        return lambda: lambda batch: _times(knobs, batch, is_number) >= cut, {**told, "column": knobs.time, "eval_from": _shown(cut, is_number)}
    told |= {"seed": knobs.seed}
    if knobs.split is Split.stratified:
        return lambda: _stratified(knobs), {**told, "column": knobs.target}
    if knobs.split is Split.grouped:
        return lambda: lambda batch: _grouped(knobs, batch), {**told, "column": knobs.group}
    return lambda: lambda batch: chosen_for_eval(batch.first, batch.rows, knobs.seed, knobs.eval_fraction), told


def _grouped(knobs: Tabular, batch: Batch) -> np.ndarray:
    """By a hash of (seed, group): a group keeps its split whatever rows come to the table."""
    assert knobs.group is not None
    places, names = _whole_cells(batch, knobs.group, "every row needs its group (data.group)")
    bound = int(knobs.eval_fraction * 2**64)
    chosen = [int.from_bytes(hashlib.sha256(f"{knobs.seed}\0{name}".encode()).digest()[:8], "big") < bound for name in names]
    return np.asarray(chosen or [False])[places]


def _stratified(knobs: Tabular) -> Choose:
    """One row, at a place by hash, of each stretch of 1/eval_fraction rows of a class (stratified systematic sampling; Cochran 1977, section 8).

    So of the first n rows of a class, for every n, n x eval_fraction are chosen but for less than one, and rows that are appended move none.
    """
    share = Fraction(str(knobs.eval_fraction)).limit_denominator(10**6)
    over, under = share.numerator, share.denominator
    seen: dict[str, int] = {}

    def first_of(stretch: np.ndarray) -> np.ndarray:
        return -(-stretch * under // over)

    def choose(batch: Batch) -> np.ndarray:
        places, names = _whole_cells(batch, knobs.target, "every row needs a target")
        chosen = np.zeros(batch.rows, bool)
        for place, name in enumerate(names):
            rows = np.flatnonzero(places == place)
            numbers = seen.get(name, 0) + np.arange(len(rows))
            stretch = numbers * over // under
            length = first_of(stretch + 1) - first_of(stretch)
            offset = hashes([knobs.seed, name], stretch.astype(np.uint64)) % length.astype(np.uint64)
            chosen[rows] = numbers == first_of(stretch) + offset.astype(np.int64)
            seen[name] = seen.get(name, 0) + len(rows)
        return chosen

    return choose


def _time_cut(knobs: Tabular, path: Path) -> tuple[float, bool]:
    """(the time from which on rows are for evaluation, whether times are numbers). Rows of one time are not parted, so they may be some more."""
    assert knobs.time is not None
    is_number = kinds(path)[knobs.time]
    with tempfile.TemporaryFile() as scratch:  # 8 bytes a row, mapped: a table may have more rows than memory has room
        for batch in batches(path, [knobs.time]):
            scratch.write(_times(knobs, batch, is_number).astype("<f8").tobytes())
        count = scratch.tell() // 8
        if not count:
            return 0.0, is_number
        scratch.flush()
        every = np.memmap(scratch, "<f8", "r+")
        place = count - max(1, round(count * knobs.eval_fraction))
        every.partition(place)
        cut = float(every[place])
        if cut == float(every.min()):
            raise ConfigError(
                f"data.time={knobs.time}: {path}: the last {knobs.eval_fraction:g} of the rows begin at the first time of all; nothing is before it"
            )
    return cut, is_number


def _times(knobs: Tabular, batch: Batch, is_number: bool) -> np.ndarray:
    assert knobs.time is not None
    times = batch.numbers(knobs.time) if is_number else batch.times(knobs.time)
    batch.no_empty(knobs.time, np.isnan(times), "every row needs its time (data.time)")
    return times


def _whole_cells(batch: Batch, name: str, advice: str) -> tuple[np.ndarray, list[str]]:
    places, names = batch.categories(name)
    batch.no_empty(name, places < 0, advice)
    return places, names


def _shown(cut: float, is_number: bool) -> float | str:
    return cut if is_number else str(np.datetime64(int(cut), "us"))
