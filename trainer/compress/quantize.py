"""`quantize`: weights as integers, and what they are multiplied with too, if asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

from trainer.compress.base import Compressor, FineTune
from trainer.errors import ConfigError, missing_extra

if TYPE_CHECKING:
    from torch import nn

    from trainer.compress.subject import Change, Subject


class Kind(Enum):
    """What are integers. int8: the weights. int8_dynamic: weights and activations, scaled as they come. int8_static: the same, scaled as
    calibration says. int4: the weights, in groups."""

    int8 = "int8"
    int8_dynamic = "int8_dynamic"
    int8_static = "int8_static"
    int4 = "int4"

    @property
    def integer_products(self) -> bool:
        """Whether integers are multiplied with integers."""
        return self in (Kind.int8_dynamic, Kind.int8_static)


@dataclass(kw_only=True)
class Quantize(Compressor):
    """Symmetric int8 weights, one scale for each output, or asymmetric int4 weights, one scale and zero point for each group of inputs
    (Jacob et al. 2018, arXiv:1712.05877, and Krishnamoorthi 2018, arXiv:1806.08342)."""

    ends: ClassVar[str] = "leaves no plain weights"

    kind: Kind = Kind.int8
    """int8 and int4 save memory, and compute with floats; int8_dynamic (one scale a token, or an image) and int8_static (one scale and zero
    point a layer) compute with integers."""
    group_size: int = 32
    """Inputs next to each other that share a scale, for int4."""
    calibration_samples: int = 128
    """Samples of the training data that give the range of what goes into each layer, for int8_static."""
    finetune: FineTune = field(default_factory=FineTune)
    """With steps: train with weights, and activations, rounded as they will be (quantization-aware training)."""

    def validate(self) -> None:
        if self.group_size < 2 or self.group_size % 2:
            raise ConfigError(f"compress.quantize.group_size={self.group_size}: must be even and at least 2, such as 32: two weights are in a byte")
        if self.calibration_samples < 1:
            raise ConfigError(f"compress.quantize.calibration_samples={self.calibration_samples}: must be at least 1")
        if find_spec("torchao") is None:
            raise missing_extra("torchao", "compress", "compress=[quantize]")

    def check(self, layers: Mapping[str, nn.Module], key: str) -> None:
        super().check(layers, key)
        from trainer.compress.integers import check

        check(self.chosen(layers), self, key)

    def training(self) -> FineTune:
        return self.finetune

    def prepare(self, subject: Subject) -> Change:
        from trainer.compress.integers import prepare

        return prepare(subject, self)

    def run(self, subject: Subject) -> Change:
        from trainer.compress.integers import quantize

        return quantize(subject, self)
