"""What all text data shares: how it is tokenised and kept on disk, and, where it has no labels of its own, cut into samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data.base import Data
from trainer.data.cache import cached, digest, file_stamp, usable_cpus
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.data.shards import Unit
    from trainer.data.tokenizer import Tokenizer
    from trainer.data.tokens import TokenSamples

FORMAT = 1  # of the files in the cache
BYTES_VOCABULARY = 257  # see ByteTokenizer
BPE_VOCABULARY = 4096
BPE_TEXT = 256 << 20  # bytes of training text that a BPE is trained on at most


class TokenizerKind(Enum):
    """bytes: no vocabulary to make; bpe: trained here on the training split; hf: a tokenizer.json."""

    bytes = "bytes"
    bpe = "bpe"
    hf = "hf"


@dataclass(frozen=True)
class Inputs:
    """Text to be tokenised: how to recognise it, and the work, planned only when it has to be done."""

    stamp: Any
    """Plain values that change when an input does."""
    units: Callable[[], list[Unit]]


@dataclass(kw_only=True)
class TokenData(Data):
    """Text of which a tokenizer makes ids. Subclasses say where it is and what a sample is."""

    seq_len: int = 128
    """Tokens in a sample; at most so many where each sample is one text."""
    tokenizer: TokenizerKind = TokenizerKind.bytes
    tokenizer_path: str | None = None
    """For `tokenizer=hf`: a tokenizer.json, a directory with one, or a hub id."""
    vocab_size: int | None = None
    """Size of the vocabulary that models are built for. Null: 257 for bytes, 4096 for bpe, the tokenizer's own for hf."""
    workers: int | None = None
    """Processes that tokenise, once. Null: one for each CPU this process may use."""

    @abstractmethod
    def source(self) -> str:
        """Where the text is from, for people."""

    def end_of_document(self) -> str | None:
        """For `tokenizer=hf`: the token that ends a document. None: the eos_token of its tokenizer_config.json, if any."""
        return None

    def validate(self) -> None:
        for key, value in (("seq_len", self.seq_len), ("workers", 1 if self.workers is None else self.workers)):
            if value < 1:
                raise ConfigError(f"data.{key}={value}: must be at least 1")
        if self.tokenizer is TokenizerKind.hf and self.tokenizer_path is None:
            raise ConfigError("data.tokenizer=hf: needs data.tokenizer_path: a tokenizer.json, a directory with one, or a hub id")
        if self.tokenizer is not TokenizerKind.hf and self.tokenizer_path is not None:
            raise ConfigError(f"data.tokenizer_path={self.tokenizer_path}: belongs to data.tokenizer=hf, and data.tokenizer={self.tokenizer.name}")
        if self.tokenizer is not TokenizerKind.hf and self.vocab_size is not None and self.vocab_size < BYTES_VOCABULARY:
            raise ConfigError(f"data.vocab_size={self.vocab_size}: data.tokenizer={self.tokenizer.name} needs at least {BYTES_VOCABULARY}")

    def tokenizer_stamp(self) -> Any:
        """Plain values that change when the tokenizer does."""
        if self.tokenizer is TokenizerKind.bytes:
            return "bytes"
        from trainer.data.tokenizer import find_tokenizer, library

        version = library().__version__
        if self.tokenizer_path is None:
            return ["bpe", version, BPE_TEXT]
        return ["hf", version, self.end_of_document(), file_stamp(find_tokenizer(self.tokenizer_path))]

    def write(self, place: Path, units: Sequence[Unit]) -> dict[str, Any]:
        """Tokenise `units` into `place`, where the tokenizer is then too; returns the index.

        Raises:
            ConfigError: text or a tokenizer that cannot be used.
            RunError: a worker process died.
        """
        from trainer.data.shards import write_shards

        tokenizer = self._make_tokenizer(place, units)
        vocab_size = max(self.vocab_size or 0, tokenizer.size) if self.tokenizer is not TokenizerKind.hf else self.vocab_size or tokenizer.size
        workers = self.workers or usable_cpus()
        return {**write_shards(place, units, tokenizer, vocab_size, workers), "end": tokenizer.end, "tokenizer": self.tokenizer.name}

    def _make_tokenizer(self, place: Path, units: Sequence[Unit]) -> Tokenizer:
        from trainer.data.tokenizer import ByteTokenizer, find_tokenizer, import_tokenizer

        if self.tokenizer is TokenizerKind.bytes:
            return ByteTokenizer()
        if self.tokenizer is TokenizerKind.bpe:
            return _bpe(units, self.vocab_size or BPE_VOCABULARY, place)
        assert self.tokenizer_path is not None  # checked by `validate`
        return import_tokenizer(find_tokenizer(self.tokenizer_path), self.end_of_document(), place)


@dataclass(kw_only=True)
class TokenizedText(TokenData):
    """Text as token samples, each token predicted from those before it. Subclasses say where the text is."""

    end_token: str | None = None
    """For `tokenizer=hf`: the token written after each document. Null: the eos_token of its tokenizer_config.json, if any."""
    packing: bool = True
    """Samples are windows over the documents in a row; false: each is the beginning of one document."""
    block_cross_document_attention: bool = False
    """With packing: give `document_ids`, so that no token attends to or is predicted from another document."""
    eval_fraction: float = 0.05
    """The share of documents, chosen by a stable hash, that make the eval split."""

    @abstractmethod
    def inputs(self) -> Inputs:
        """What is to be tokenised.

        Raises:
            ConfigError: an input that is not there or cannot be read.
        """

    def end_of_document(self) -> str | None:
        return self.end_token

    def validate(self) -> None:
        super().validate()
        if not 0 <= self.eval_fraction < 1:
            raise ConfigError(f"data.eval_fraction={self.eval_fraction}: must be at least 0 and below 1")
        if self.end_token is not None and self.tokenizer is not TokenizerKind.hf:
            raise ConfigError(f"data.end_token={self.end_token}: only for data.tokenizer=hf; data.tokenizer={self.tokenizer.name} has its own")
        if self.block_cross_document_attention and not self.packing:
            raise ConfigError("data.block_cross_document_attention=true: needs data.packing=true (unpacked samples hold one document each)")

    def open(self, split: str) -> TokenSamples:
        from trainer.data.tokenizer import open_tokenizer
        from trainer.data.tokens import Documents, Packed, PackedApart

        inputs = self.inputs()
        tokenizer_stamp = self.tokenizer_stamp()
        key = digest([FORMAT, inputs.stamp, self.eval_fraction, tokenizer_stamp, self.vocab_size])
        directory, index = cached("text", key, lambda place: self.write(place, inputs.units()))
        tokenizer = open_tokenizer(directory, index["end"], index["vocab_size"])
        kind = Documents if not self.packing else PackedApart if self.block_cross_document_attention else Packed
        self._check_size(split, index["splits"][split])
        return kind(directory, index, split, tokenizer, self.seq_len, self.source())

    def export_tokenizer(self, directory: Path) -> int | None:
        from trainer.data.tokenizer import END_OF_TEXT, ByteTokenizer, FileTokenizer, export_files, find_tokenizer

        if self.tokenizer is TokenizerKind.bytes:
            return ByteTokenizer.end
        if self.tokenizer_path is not None:
            return export_files(find_tokenizer(self.tokenizer_path), self.end_token, directory)
        kept = self.open("train").tokenizer  # a BPE is beside the text that was tokenised with it
        assert isinstance(kept, FileTokenizer)
        return export_files(kept.path, END_OF_TEXT, directory)

    def _check_size(self, split: str, facts: dict[str, Any]) -> None:
        if facts["documents"] == 0:
            raise ConfigError(self.empty_split(split))
        if self.packing and facts["tokens"] <= self.seq_len:
            tokens = facts["tokens"]
            raise ConfigError(
                f"data.seq_len={self.seq_len}: the {split} split of {self.source()} has {tokens} tokens, "
                f"less than one sample of {self.seq_len} + 1; at most {tokens - 1} is possible"
            )

    def empty_split(self, split: str) -> str:
        """The message for a split without a document."""
        if split == "eval":
            return f"data.eval_fraction={self.eval_fraction}: no document of {self.source()} fell into the eval split; a larger fraction is needed"
        return f"data: {self.source()} holds no text to train on"


def _bpe(units: Sequence[Unit], vocab_size: int, place: Path) -> Tokenizer:
    """Train it in a process of its own where it takes a while: native code hears no request to stop, and such a process can be ended."""
    from trainer.data import pool
    from trainer.data.tokenizer import FileTokenizer

    if sum(unit.size for unit in units) < FileTokenizer.parallel_from or not pool.may_start():
        return _train_bpe(units, vocab_size, place)
    with pool.processes(1, "the process that trained the tokenizer died (killed, or out of memory?)") as submit:
        return submit(_train_bpe, units, vocab_size, place).result()


def _train_bpe(units: Sequence[Unit], vocab_size: int, place: Path) -> Tokenizer:
    from trainer.data.tokenizer import train_bpe

    return train_bpe(_training_text(units), vocab_size, place)


def _training_text(units: Sequence[Unit]) -> Iterator[str]:
    """Text of the training split, from all units alike, at most `BPE_TEXT` bytes."""
    for unit in units:
        left = BPE_TEXT // len(units)
        for split, document in unit.documents():
            if split != "train" or left <= 0:
                continue
            for text in document.pieces:
                yield text
                left -= len(text)
