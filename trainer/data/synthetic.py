"""`data=synthetic`: samples made from (seed, index), of any size and with something to learn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from trainer.data.reduce import REDUCING, Reducible
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.data.base import Samples


class SyntheticKind(Enum):
    """What the samples look like: those of `text`, `tabular` or `images`."""

    tokens = "tokens"
    tabular = "tabular"
    images = "images"


@dataclass(kw_only=True)
class Synthetic(Reducible):
    """Sample i is a pure function of (seed, split, i): nothing is stored, and any number of samples is free."""

    kind: SyntheticKind = SyntheticKind.tokens
    samples: int = 4096
    """In the train split."""
    eval_samples: int = 256
    seed: int = 0
    vocab_size: int = 256
    """tokens"""
    seq_len: int = 128
    """tokens"""
    uneven: bool = False
    """tokens: lengths vary from 1 to seq_len, by index."""
    features: int = 16
    """tabular"""
    classes: int = 10
    """tabular, images; 0 (tabular only): labels are numbers, for regression."""
    channels: int = 1
    """images"""
    height: int = 8
    """images"""
    width: int = 8
    """images"""

    _used: ClassVar = {
        SyntheticKind.tokens: {"vocab_size", "seq_len", "uneven"},
        SyntheticKind.tabular: {"features", "classes"} | REDUCING,
        SyntheticKind.images: {"classes", "channels", "height", "width"} | REDUCING,
    }

    def validate(self) -> None:
        used = self._used[self.kind] | {"kind", "samples", "eval_samples", "seed"}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name not in used and value != item.default:
                raise ConfigError(f"data.{item.name}={getattr(value, 'name', value)}: has no effect with data.kind={self.kind.name}")
            least = 0 if item.name in ("seed", "classes", "reduce_seed") else 1
            if type(value) is int and value < least:
                raise ConfigError(f"data.{item.name}={value}: must be at least {least}")
        if self.kind is SyntheticKind.images and self.classes == 0:
            raise ConfigError("data.classes=0: data.kind=images needs at least 1")
        super().validate()

    def open_whole(self, split: str) -> Samples:
        from trainer.data.made import MadeImages, MadeRows, MadeTokens

        eval_split = split == "eval"
        count = self.eval_samples if eval_split else self.samples
        match self.kind:
            case SyntheticKind.tokens:
                return MadeTokens(self.seed, eval_split, count, self.vocab_size, self.seq_len, self.uneven)
            case SyntheticKind.tabular:
                return MadeRows(self.seed, eval_split, count, self.features, self.classes)
            case SyntheticKind.images:
                return MadeImages(self.seed, eval_split, count, self.classes, (self.channels, self.height, self.width))
