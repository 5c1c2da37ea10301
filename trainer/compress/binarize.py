"""`binarize`: weights of one or two bits, trained as such and packed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from trainer.compress.base import Compressor, FineTune

if TYPE_CHECKING:
    from trainer.compress.subject import Change, Subject


class Kind(Enum):
    """What a weight may be, times a scale: -1 and 1, or -1, 0 and 1."""

    binary = "binary"
    ternary = "ternary"


class Activations(Enum):
    """What the weights are multiplied with: integers, with one scale for each token (or image), or floats as they come."""

    int8 = "int8"
    float = "float"


@dataclass(kw_only=True)
class Binarize(Compressor):
    """Binary weights (BinaryConnect, Courbariaux et al. 2015, arXiv:1511.00363; XNOR-Net, Rastegari et al. 2016, arXiv:1603.05279,
    section 3.1) or ternary ones (BitNet b1.58, Ma et al. 2024, arXiv:2402.17764)."""

    ends: ClassVar[str] = "leaves no plain weights"

    kind: Kind = Kind.ternary
    """binary: the sign, times the mean of |W| of each row, in 1 bit; ternary: W / mean |W| of the layer, rounded, in 2 bits."""
    activations: Activations = Activations.int8
    """int8: the nearest to 127 x / max |x| within a token, or an image, and exact integer products; float: as they come."""
    finetune: FineTune = field(default_factory=FineTune)
    """With steps: train with the weights (and activations) that there will be. Without, little of a model's quality is left."""

    def training(self) -> FineTune:
        return self.finetune

    def prepare(self, subject: Subject) -> Change:
        from trainer.compress.binarized import trained

        return trained(subject, self)

    def run(self, subject: Subject) -> Change:
        from trainer.compress.binarized import binarize

        return binarize(subject, self)
