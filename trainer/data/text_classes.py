"""Texts with a class each, as they are kept on disk and read from there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data import text_rows
from trainer.data.arrays import map_rows
from trainer.data.base import Sample
from trainer.data.cache import digest
from trainer.data.labelled_text import LabelledText
from trainer.data.shards import SPLITS, entropy
from trainer.data.survey import FEW, MOST_CATEGORIES, as_numbers
from trainer.data.table import Batch
from trainer.data.table_write import Column
from trainer.data.tokenizer import Tokenizer
from trainer.data.tokens import TokenSamples
from trainer.errors import ConfigError


class LabelledSamples(TokenSamples):
    """Sample i: `input_ids` (length,), the first tokens of text i, `attention_mask` (length,), all 1, and `labels` (), its class.

    `collate` pads to the longest of a batch, where the mask is 0. `spec` has besides what token samples have `classes` and
    `mean_tokens`, the mean length of the samples of the training split.
    """

    def __init__(self, directory: Path, index: Mapping[str, Any], split: str, tokenizer: Tokenizer, seq_len: int, source: str) -> None:
        super().__init__(directory, index, split, tokenizer, seq_len, source)
        self._labels = map_rows(directory / f"{split}.labels", "<i8", ())
        trained_on = np.minimum(_lengths(directory, index, "train"), seq_len)
        self.spec = {**self.spec, "classes": len(index["classes"]), "mean_tokens": float(trained_on.mean())}
        self.fingerprint = digest([self.fingerprint, index["labels"][split], index["classes"]])
        del self._facts["unigram_entropy"]  # what predicting tokens is held against
        cut = int((_lengths(directory, index, split) > seq_len).sum())
        self._facts |= {"class_names": index["classes"], "class_entropy": index["class_entropy"], "longer_than_seq_len": cut}

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self.starts[index])
        stop = int(self.starts[index + 1]) if index + 1 < len(self) else len(self.ids)
        ids = self.ids[start : min(stop, start + self.seq_len)].astype(np.int64)
        return {"input_ids": ids, "attention_mask": np.ones(len(ids), np.int64), "labels": self._labels[index]}


def _lengths(directory: Path, index: Mapping[str, Any], split: str) -> np.ndarray:
    """(texts,): how many tokens each text of a split has."""
    return np.diff(map_rows(directory / f"{split}.docs", "<i8", ()), append=index["splits"][split]["tokens"])


def write(knobs: LabelledText, place: Path) -> dict[str, Any]:
    """Tokenise the texts that `knobs` name into `place`, and write their classes beside them; returns the index.

    Raises:
        ConfigError: content that cannot be used, naming the column and row.
    """
    text_rows.check_columns(knobs)
    target = Column(knobs.target, is_number=False)
    for batch, held_out in text_rows.rows(knobs):
        _check_texts(knobs, batch)
        batch.no_empty(knobs.target, batch.empty(knobs.target), "every text needs a class")
        target.fit(batch, ~held_out)
    _check_classes(knobs, target)
    sums = {split: hashlib.sha256() for split in SPLITS}
    with ExitStack() as stack:
        files = {split: stack.enter_context((place / f"{split}.labels").open("wb")) for split in SPLITS}
        for batch, held_out in text_rows.rows(knobs):
            codes = target.codes(batch).astype("<i8")
            for split, chosen in (("train", ~held_out), ("eval", held_out)):
                files[split].write(codes[chosen].tobytes())
                sums[split].update(codes[chosen].tobytes())
    index = knobs.write(place, text_rows.units(knobs))
    for split in SPLITS:
        if not (lengths := _lengths(place, index, split)).all():
            where = _where(knobs, split, int((lengths == 0).argmax()))
            raise ConfigError(f"{where}: the tokenizer makes no token of this text; mend it, or take another tokenizer")
    labels = {split: checksum.hexdigest() for split, checksum in sums.items()}
    return {**index, "labels": labels, "classes": target.categories(), "class_entropy": entropy(np.asarray(list(target.counts.values())))}


def _check_texts(knobs: LabelledText, batch: Batch) -> None:
    """Refuse what is no text, and the first that is empty."""
    from pyarrow import types

    kind = batch.columns[knobs.text].type
    if not (types.is_string(kind) or types.is_large_string(kind)):
        raise ConfigError(f"data.text={knobs.text}: the column in {batch.path} holds {kind}, not text")
    blank = np.asarray([not (text or "").strip() for text in batch.columns[knobs.text].to_pylist()], bool)
    batch.no_empty(knobs.text, blank, "every row needs a text")


def _check_classes(knobs: LabelledText, target: Column) -> None:
    """Refuse labels of which no classifier could be made: one class alone, numbers to be measured, or another one for almost every text."""
    names, count = target.categories(), sum(target.counts.values())
    if not names:
        raise ConfigError(f"{knobs.path}: has no row to train on")
    if len(names) == 1:
        raise ConfigError(f"data.target={knobs.target}: all {count:,} rows of {knobs.path} to train on are of the class {names[0]!r}; a classifier needs two")
    numbers = as_numbers(names)
    if (fractions := np.isfinite(numbers) & (numbers != np.floor(numbers))).any():
        raise ConfigError(f"data.target={knobs.target}: {names[int(fractions.argmax())]!r} in {knobs.path} is no class; classes are words or whole numbers")
    if len(names) > MOST_CATEGORIES or (len(names) > FEW and count < 5 * len(names)):
        raise ConfigError(
            f"data.target={knobs.target}: {len(names):,} different values in {count:,} rows of {knobs.path} are no classes; "
            f"more than {FEW} classes need 5 rows each on average, and there may be {MOST_CATEGORIES:,}"
        )


def _where(knobs: LabelledText, split: str, number: int) -> str:
    """The column and row of text `number` of a split, for people."""
    for batch, held_out in text_rows.rows(knobs):
        chosen = np.flatnonzero(held_out == (split == "eval"))
        if number < len(chosen):
            return batch.where(knobs.text, int(chosen[number]))
        number -= len(chosen)
    raise IndexError(number)
