"""`data=pages`: rendered pages of words with their exact boxes, or one's own pictures with boxes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.data.base import Data
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.data.base import Samples


@dataclass(kw_only=True)
class Pages(Data):
    """Pictures (3, H, W) in [0, 1], boxes of the words in them (left, top, right, bottom), and CRAFT's score maps as labels."""

    path: str | None = None
    """A COCO .json file, or a directory of Pascal VOC .xml files, with the pictures that they name beside them. Null: pages are rendered."""
    height: int = 320
    """Of each page; one's own pictures are scaled to fit."""
    width: int = 320
    samples: int = 4096
    """Rendered pages in the train split."""
    eval_samples: int = 128
    """Rendered pages in the eval split."""
    eval_fraction: float = 0.2
    """For `path`: the share of pictures, chosen by a stable hash of their number, that makes the eval split."""
    seed: int = 0
    words: int = 14
    """On a page, at most; at least a third of it."""
    smallest: int = 9
    """Pixels of the smallest letters' font."""
    largest: int = 44
    rotation: float = 12.0
    """Degrees by which a word is turned at most."""
    noise: float = 0.08
    """Standard deviation of the noisiest page's noise; white is 1."""
    clutter: int = 12
    """Lines and shapes that are no text, at most."""

    def validate(self) -> None:
        for item in dataclasses.fields(self):
            value, least = getattr(self, item.name), 0 if item.name in ("seed", "clutter", "noise", "rotation") else 1
            if type(value) in (int, float) and item.name != "eval_fraction" and not value >= least:
                raise ConfigError(f"data.{item.name}={value}: must be at least {least}")
        if not 0 < self.eval_fraction < 1:
            raise ConfigError(f"data.eval_fraction={self.eval_fraction}: must be above 0 and below 1")
        if self.path is None and not 6 <= self.smallest <= self.largest <= self.height // 2:
            raise ConfigError(f"data.smallest={self.smallest} data.largest={self.largest}: must be 6 <= smallest <= largest <= half of height={self.height}")
        if self.rotation > 45:
            raise ConfigError(f"data.rotation={self.rotation}: must be at most 45")
        if self.path is not None:
            for item in dataclasses.fields(self):
                if item.name in _RENDERED and getattr(self, item.name) != item.default:
                    raise ConfigError(f"data.{item.name}={getattr(self, item.name)}: has no effect with data.path, whose pictures are as they are")

    def open(self, split: str) -> Samples:
        from trainer.data.labelled import LabelledPages
        from trainer.data.rendered import RenderedPages

        return RenderedPages(self, split == "eval") if self.path is None else LabelledPages(self, split)


_RENDERED = ("samples", "eval_samples", "words", "smallest", "largest", "rotation", "noise", "clutter")
