"""`data=text`: text of one's own, in files or a Hugging Face data set."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data.cache import file_stamp
from trainer.data.files import UNIT, file_inputs
from trainer.data.tokenized import Inputs, TokenizedText
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.data.shards import Unit


@dataclass(kw_only=True)
class Text(TokenizedText):
    """Text files (.jsonl, .parquet, anything else is plain text), or a Hugging Face data set."""

    paths: list[str] = field(default_factory=list)
    """Globs of files, `**` for any depth. A plain text file is one document, unless `separator` is set."""
    eval_paths: list[str] = field(default_factory=list)
    """Globs of the files of the eval split. Empty: `eval_fraction` of the documents of `paths`."""
    dataset: str | None = None
    """Instead of `paths`: a Hugging Face `datasets` id, or the path of one."""
    dataset_config: str | None = None
    """Which configuration of `dataset`."""
    dataset_revision: str | None = None
    """Which revision of a hub id. What was tokenised of a hub id is kept: another revision gets newer content."""
    dataset_split: str = "train"
    """The split of `dataset` to train on."""
    dataset_eval_split: str | None = None
    """The split of `dataset` to evaluate on. Null: `eval_fraction` of the documents of `dataset_split`."""
    text_field: str = "text"
    """Where JSON objects and tables have the text."""
    separator: str | None = None
    """What sets apart documents in plain text files, such as "<|endoftext|>" or two line ends."""

    def validate(self) -> None:
        super().validate()
        if bool(self.paths) == (self.dataset is not None):
            raise ConfigError(f"data.paths={self.paths}, data.dataset={self.dataset}: give one of the two")
        if self.dataset is None:
            for key, default in (("config", None), ("revision", None), ("split", "train"), ("eval_split", None)):
                if (value := getattr(self, f"dataset_{key}")) != default:
                    raise ConfigError(f"data.dataset_{key}={value}: belongs to data.dataset, which is not given")
        if self.dataset is not None and self.eval_paths:
            raise ConfigError(f"data.eval_paths={self.eval_paths}: belongs to data.paths; for data.dataset use data.dataset_eval_split")
        if self.separator == "":
            raise ConfigError("data.separator='': must not be empty; null makes each file one document")

    def source(self) -> str:
        return self.dataset or ", ".join(self.paths)

    def inputs(self) -> Inputs:
        if self.dataset is not None:
            return Inputs(self._dataset_stamp(self.dataset), functools.partial(self._dataset_units, self.dataset))
        if not self.eval_paths:
            return self._files("data.paths", self.paths, None)
        train, evaluation = self._files("data.paths", self.paths, "train"), self._files("data.eval_paths", self.eval_paths, "eval")
        if both := {stamp[1] for stamp in train.stamp[0]} & {stamp[1] for stamp in evaluation.stamp[0]}:
            raise ConfigError(f"data.eval_paths={self.eval_paths}: {min(both)} is among data.paths too; evaluation needs text that is not trained on")
        return Inputs([train.stamp, evaluation.stamp], lambda: [*train.units(), *evaluation.units()])

    def _files(self, key: str, patterns: Sequence[str], split: str | None) -> Inputs:
        named = dict(pair for pattern in patterns for pair in _matches(key, pattern))
        return file_inputs([(name, path) for path, name in named.items()], split, self.eval_fraction, self.text_field, self.separator)

    def _dataset_stamp(self, name: str) -> Any:
        files = [file_stamp(path) for path in sorted(Path(name).rglob("*")) if path.is_file()]
        return [name, self.dataset_config, self.dataset_revision, self.dataset_split, self.dataset_eval_split, self.text_field, files]

    def _dataset_units(self, name: str) -> list[Unit]:
        from trainer.data.records import dataset_spans, open_dataset
        from trainer.data.shards import units_of

        splits = open_dataset(name, self.dataset_config, self.dataset_revision)
        units: list[Unit] = []
        for key, split, chosen in (("dataset_split", "train", self.dataset_split), ("dataset_eval_split", "eval", self.dataset_eval_split)):
            if chosen is None:
                continue
            if chosen not in splits:
                raise ConfigError(f"data.{key}={chosen}: {name} has no such split; it has: {', '.join(splits)}")
            spans = dataset_spans(splits[chosen], name, self.text_field, UNIT)
            units += units_of(spans, split if self.dataset_eval_split else None, self.eval_fraction, UNIT)
        return units

    def empty_split(self, split: str) -> str:
        if split == "eval" and self.eval_paths:
            return f"data.eval_paths={self.eval_paths}: hold no text"
        if split == "eval" and self.dataset_eval_split:
            return f"data.dataset_eval_split={self.dataset_eval_split}: holds no text"
        if split == "eval":
            return f"{super().empty_split(split)}, or data.eval_paths, or data.separator (a plain text file is one document without it)"
        return super().empty_split(split)


def _matches(key: str, pattern: str) -> list[tuple[Path, str]]:
    """(path, name below the fixed part of `pattern`) of each file that matches, in order of names."""
    found = [Path(match) for match in sorted(glob.glob(pattern, recursive=True)) if not os.path.isdir(match)]
    if not found:
        hint = "is a directory; add /** and the files' suffix" if os.path.isdir(pattern) else "no file matches"
        raise ConfigError(f"{key}={pattern}: {hint}")
    fixed = Path(pattern).parent
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    for path in found:
        if file_stamp(path)[1] == 0:
            raise ConfigError(f"{key}: {path}: is empty")
    return [(path, path.relative_to(fixed).as_posix()) for path in found]
