"""`data=labelled_text`: texts with a class each, in a CSV, Parquet or JSON lines file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from trainer.data.cache import cached, digest, file_stamp
from trainer.data.tokenized import TokenData
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.data.text_classes import LabelledSamples

FORMAT = 1  # of the files in the cache
JSON_LINES = (".jsonl", ".ndjson")


@dataclass(kw_only=True)
class LabelledText(TokenData):
    """A sample is one text, at most `seq_len` tokens of it, and its class; tokenised once, and read from a memory map."""

    path: str = MISSING
    """A .csv (with a header), .parquet, or .jsonl file: one text a row, or a line."""
    eval_path: str | None = None
    """A file of the same columns for the eval split. Null: `eval_fraction` of the rows of `path`."""
    text: str = "text"
    """The column of the texts."""
    target: str = "label"
    """The column of the classes: words or whole numbers."""
    eval_fraction: float = 0.1
    """The share of rows, chosen by a stable hash of their number, that makes the eval split."""
    seed: int = 0
    """Of that hash."""

    def validate(self) -> None:
        super().validate()
        for key, path in (("path", self.path), ("eval_path", self.eval_path)):
            if path is not None and Path(path).suffix.lower() not in (".csv", ".parquet", *JSON_LINES):
                raise ConfigError(f"data.{key}={path}: must be a .csv, .parquet or .jsonl file")
        if self.eval_path is None and not 0 < self.eval_fraction < 1:
            raise ConfigError(f"data.eval_fraction={self.eval_fraction}: must be above 0 and below 1, unless data.eval_path is given")
        if self.text == self.target:
            raise ConfigError(f"data.target={self.target}: is data.text too; the class stands in another column than the text")

    def source(self) -> str:
        return self.path

    def open(self, split: str) -> LabelledSamples:
        from trainer.data.text_classes import LabelledSamples, write
        from trainer.data.tokenizer import open_tokenizer

        stamps = [file_stamp(Path(path)) for path in (self.path, self.eval_path) if path is not None]
        chosen = [self.eval_fraction, self.seed] if self.eval_path is None else None
        key = digest([FORMAT, stamps, self.text, self.target, chosen, self.tokenizer_stamp(), self.vocab_size])
        directory, index = cached("labelled_text", key, lambda place: write(self, place))
        if not index["splits"][split]["documents"]:
            if self.eval_path is not None:
                raise ConfigError(f"{self.eval_path}: has no rows")
            raise ConfigError(f"data.eval_fraction={self.eval_fraction}: the {split} split of {self.path} has no row")
        tokenizer = open_tokenizer(directory, index["end"], index["vocab_size"])
        return LabelledSamples(directory, index, split, tokenizer, self.seq_len, self.path if split == "train" else self.eval_path or self.path)
