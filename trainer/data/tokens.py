"""Samples of token shards: windows of packed documents, or one document each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from trainer.data.base import IGNORE, Sample, Samples
from trainer.data.cache import digest
from trainer.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor


class TokenSamples(Samples):
    """What packed and unpacked samples share."""

    def __init__(self, directory: Path, index: Mapping[str, Any], split: str, tokenizer: Tokenizer, seq_len: int, source: str) -> None:
        self.ids = _mapped(directory / f"{split}.bin", np.dtype(index["dtype"]))
        self.starts = _mapped(directory / f"{split}.docs", np.dtype("<i8"))
        self.spec = {"vocab_size": index["vocab_size"], "seq_len": seq_len}
        self.seq_len = seq_len
        self.tokenizer = tokenizer
        self._facts = {
            "source": source,
            "tokenizer": index["tokenizer"],
            "tokens": index["splits"][split]["tokens"],
            "documents": index["splits"][split]["documents"],
            "unigram_entropy": index["splits"]["train"]["unigram_entropy"],
        }
        self.fingerprint = digest([type(self).__name__, split, index["splits"][split]["sha256"], index["vocab_size"], seq_len])

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).tolist()

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), **self._facts, **self.spec}


class Packed(TokenSamples):
    """Sample i is tokens [i L, (i+1) L] of the stream of documents, so that each token but the first is predicted once.

    The last sample is filled up with zeros whose labels are not counted.
    """

    def __init__(self, directory: Path, index: Mapping[str, Any], split: str, tokenizer: Tokenizer, seq_len: int, source: str) -> None:
        super().__init__(directory, index, split, tokenizer, seq_len, source)
        self.sample_bytes = 2 * 8 * seq_len  # int64 inputs and labels

    def __len__(self) -> int:
        return 1 + (len(self.ids) - 2) // self.seq_len

    def __getitem__(self, index: int) -> Sample:
        window, valid = self._window(index)
        labels = window[1:].copy()
        labels[valid:] = IGNORE
        return {"input_ids": window[:-1], "labels": labels}

    def _window(self, index: int) -> tuple[np.ndarray, int]:
        """seq_len + 1 ids as int64, and how many labels of them are real."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.seq_len
        found = self.ids[start : start + self.seq_len + 1]
        if len(found) == self.seq_len + 1:
            return found.astype(np.int64), self.seq_len
        window = np.zeros(self.seq_len + 1, np.int64)
        window[: len(found)] = found
        return window, len(found) - 1

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        import torch

        chosen, whole = np.asarray(indices), (len(self.ids) - 1) // self.seq_len
        if chosen.min() < 0 or chosen.max() >= whole:  # the one that is filled up, or none at all
            return super().batch(indices)
        windows = sliding_window_view(self.ids, self.seq_len + 1)[:: self.seq_len][chosen]
        return {"input_ids": torch.from_numpy(windows[:, :-1].astype(np.int64)), "labels": torch.from_numpy(windows[:, 1:].astype(np.int64))}


class PackedApart(Packed):
    """Packed, with `document_ids` (L,): tokens of one number belong together and attend to no others.

    A label that lies in another document than its input is not counted. Numbers start from 0 in each sample.
    """

    def __getitem__(self, index: int) -> Sample:
        window, valid = self._window(index)
        start = index * self.seq_len
        first, last = np.searchsorted(self.starts, [start + 1, start + valid + 1])
        begins = np.zeros(self.seq_len + 1, np.int64)
        begins[self.starts[first:last] - start] = 1
        labels = np.where(begins[1:] == 1, IGNORE, window[1:])
        labels[valid:] = IGNORE
        begins[valid + 1 : valid + 2] = 1  # what fills up the last sample is apart too
        return {"input_ids": window[:-1], "labels": labels, "document_ids": np.cumsum(begins)[:-1]}

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return Samples.batch(self, indices)


class Documents(TokenSamples):
    """Sample i is the beginning of document i, at most seq_len tokens: uneven lengths, padded by `collate`."""

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self.starts[index])
        stop = int(self.starts[index + 1]) if index + 1 < len(self) else len(self.ids)
        window = self.ids[start : min(stop, start + self.seq_len + 1)].astype(np.int64)
        return {"input_ids": window[:-1], "labels": window[1:]}


def _mapped(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)
