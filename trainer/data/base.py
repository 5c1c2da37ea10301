"""What a data set is to the trainer: `open(split)` gives `Samples` that are read at random."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from trainer.part import Part

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    from trainer.data.reduction import Reduction

IGNORE = -100  # PyTorch's ignore_index: a label that is not counted in the loss

Sample: TypeAlias = "Mapping[str, np.ndarray]"


class Samples(ABC):
    """One split, opened: pure random access (the same index always gives the same sample)."""

    spec: Mapping[str, Any]
    """What a model needs to know to be built: `vocab_size` and `seq_len` for text (with `classes` where each
    text has one, and `mean_tokens`), `features` and `classes` for tables, `channels`, `height`, `width` and `classes` for images."""

    fingerprint: str
    """Hex digest of the content and of every knob that changes a sample."""

    sample_bytes: int | None = None
    """Bytes of a sample's tensors, where all samples have the same shapes and are quick to read: small ones are then read many at once."""

    preparation: Mapping[str, Any] | None = None
    """How a raw row became the features, as plain values (tables: fill, shift and scale of numbers, places of categories), before any reduction."""

    reduction: Reduction | None = None
    """With `data.reduce`: how the features became the components that samples hold, and back."""

    @property
    def original(self) -> Samples:
        """The same samples, in the same order, with the features that they have without `data.reduce`."""
        return self

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Sample `index` as arrays without a batch dimension; `labels` is what the loss is taken on."""

    def collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Stack samples into CPU tensors of shape (batch, ...).

        Arrays of unequal length are padded on the right along their first dimension: `labels`
        with `IGNORE`, everything else with 0.
        """
        import numpy as np
        import torch

        batch: dict[str, Tensor] = {}
        for key in samples[0]:
            arrays = [np.asarray(sample[key]) for sample in samples]
            if len({array.shape for array in arrays}) == 1:
                stacked = np.stack(arrays)
            else:
                longest = max(array.shape[0] for array in arrays)
                fill = IGNORE if key == "labels" else 0
                stacked = np.full((len(arrays), longest, *arrays[0].shape[1:]), fill, arrays[0].dtype)
                for row, array in zip(stacked, arrays, strict=True):
                    row[: array.shape[0]] = array
            batch[key] = torch.from_numpy(stacked)
        return batch

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The samples of `indices`, collated. Override where many can be read faster than one by one."""
        return self.collate([self[index] for index in indices])

    def flat(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples `first` to `last`, that not included, of a table or of images, without torch.

        Returns:
            (samples, values) float32, what each is predicted from in one row, and (samples,) the labels.
        """
        import numpy as np

        samples = [self[index] for index in range(first, last)]
        (key,) = (key for key in samples[0] if key != "labels")
        return np.stack([sample[key] for sample in samples]).reshape(len(samples), -1), np.stack([sample["labels"] for sample in samples])

    def decode(self, ids: Sequence[int]) -> str | None:
        """The text of token `ids`, or None where samples are not text."""
        return None

    def encode(self, text: str) -> list[int]:
        """The token ids of `text` (text data only)."""
        raise TypeError(f"{type(self).__name__} does not hold text")

    def describe(self) -> Mapping[str, Any]:
        """Facts for the report, plain values (rows, tokens, unigram entropy in nats, source, ...)."""
        return {"samples": len(self), "fingerprint": self.fingerprint}


@dataclass(kw_only=True)
class Data(Part):
    """A data set. `open` is cheap after the first time: what it prepares is cached on disk."""

    @abstractmethod
    def open(self, split: str) -> Samples:
        """Open split "train" or "eval".

        Safe to call from many processes at once: the first prepares the cache under a file lock.

        Raises:
            ConfigError: a path that is not there, or content that cannot be used (names file and line).
        """

    def prepare(self, device: Any) -> None:
        """Do by all ranks at once what `open` would do in one process. A collective, before any rank's `open`; on `device` is what is exchanged.

        Raises:
            ConfigError: what `open` raises: on all ranks.
        """

    def export_tokenizer(self, directory: Path) -> int | None:
        """Write this data's tokenizer into `directory` as files that transformers reads, if it has such a form.

        Returns the id of the token that ends a document, or None. Other data than text has neither.

        Raises:
            ConfigError: the tokenizer is no longer there.
        """
        return None
