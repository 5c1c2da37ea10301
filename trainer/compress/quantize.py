"""`quantize`: weights as integers, with a scale for each row or group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainer.compress.base import Compressor

if TYPE_CHECKING:
    from trainer.compress.subject import Change, Subject


@dataclass(kw_only=True)
class Quantize(Compressor):
    """Symmetric int8 weights, one scale a row; arithmetic in the dtype of the activations."""

    packs: ClassVar[bool] = True

    def run(self, subject: Subject) -> Change:
        from trainer.compress.integers import quantize

        return quantize(subject, self)
