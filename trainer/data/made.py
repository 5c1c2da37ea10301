"""Samples that are computed, not read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.data.base import Sample, Samples
from trainer.data.cache import digest

_SHARED = 2  # beside the splits' 0 and 1: what all samples of one seed share


class Made(Samples):
    """Sample i comes from a generator seeded with (seed, split, i)."""

    def __init__(self, seed: int, eval_split: bool, count: int, spec: Mapping[str, Any], uneven: bool = False) -> None:
        self._seed, self._split, self._count = seed, int(eval_split), count
        self.spec = spec
        self.fingerprint = digest([type(self).__name__, seed, self._split, count, uneven, dict(spec)])

    def __len__(self) -> int:
        return self._count

    def _generator(self, index: int) -> np.random.Generator:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return np.random.default_rng([self._seed, self._split, index])

    def _shared(self) -> np.random.Generator:
        return np.random.default_rng([self._seed, _SHARED])

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "source": f"synthetic, seed {self._seed}", **self.spec}


class MadeTokens(Made):
    """Token t+1 is a fixed permutation of token t, but one time in five it is drawn at random."""

    def __init__(self, seed: int, eval_split: bool, count: int, vocab_size: int, seq_len: int, uneven: bool) -> None:
        super().__init__(seed, eval_split, count, {"vocab_size": vocab_size, "seq_len": seq_len}, uneven)
        self._vocab_size, self._seq_len, self._uneven = vocab_size, seq_len, uneven
        self._next = self._shared().permutation(vocab_size)

    def __getitem__(self, index: int) -> Sample:
        generator = self._generator(index)
        length = int(generator.integers(1, self._seq_len + 1)) if self._uneven else self._seq_len
        window = generator.integers(self._vocab_size, size=length + 1)
        kept = generator.random(length) < 0.8
        for t in np.flatnonzero(kept):
            window[t + 1] = self._next[window[t]]
        return {"input_ids": window[:-1], "labels": window[1:]}

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "unigram_entropy": math.log(self._vocab_size)}


class MadeRows(Made):
    """Normal features; the label is their fixed linear map: the greatest class, or a number with some noise."""

    def __init__(self, seed: int, eval_split: bool, count: int, features: int, classes: int) -> None:
        names = [f"x{number}" for number in range(features)]
        spec = {"features": features, "feature_names": names, **({"classes": classes} if classes else {})}
        super().__init__(seed, eval_split, count, spec)
        self._features, self._classes = features, classes
        self._map = self._shared().normal(size=(features, max(classes, 1)))

    def __getitem__(self, index: int) -> Sample:
        generator = self._generator(index)
        row = generator.normal(size=self._features)
        scores = row @ self._map
        label = np.int64(scores.argmax()) if self._classes else np.float32(scores[0] + 0.1 * generator.normal())
        return {"features": row.astype(np.float32), "labels": np.asarray(label)}


class MadeImages(Made):
    """The fixed pattern of the image's class in [0, 1], mixed with as much noise."""

    def __init__(self, seed: int, eval_split: bool, count: int, classes: int, shape: tuple[int, int, int]) -> None:
        channels, height, width = shape
        super().__init__(seed, eval_split, count, {"channels": channels, "height": height, "width": width, "classes": classes})
        self._patterns = self._shared().random((classes, *shape))

    def __getitem__(self, index: int) -> Sample:
        generator = self._generator(index)
        label = generator.integers(len(self._patterns))
        image = (self._patterns[label] + generator.random(self._patterns.shape[1:])) / 2
        return {"images": image.astype(np.float32), "labels": np.asarray(label)}
