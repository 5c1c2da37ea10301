"""What an exporter is to the trainer: one runtime, one dataclass, one YAML. Nothing here imports torch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from trainer.errors import ConfigError, missing_extra
from trainer.part import Part

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.export.traced import Traced

Run = Callable[[Sequence["Tensor"]], "Tensor"]
"""The outputs for some inputs, by the runtime that the file is for."""


@dataclass(frozen=True)
class Written:
    """A file that an exporter has written."""

    path: Path
    tolerance: float


@dataclass(kw_only=True)
class Exporter(Part):
    """One runtime for trained models. `write` writes, `opened` runs what was written."""

    name: ClassVar[str]
    package: ClassVar[str]
    """What must be installed."""
    runtime: ClassVar[str]
    """The module that runs what is written."""
    file: ClassVar[str]
    """What `write` writes, in a folder of its own."""
    tolerance: float = 1e-4
    """How far its outputs may be from PyTorch's: the norm of the difference as a share of the norm of PyTorch's, over `check_samples`."""
    check_samples: int = 32
    """Samples of the evaluation split that it is checked on."""
    int8: bool = False
    """Also a file with int8 weights and activations, with ranges that `calibration_samples` have shown."""
    int8_tolerance: float = 0.1
    """As `tolerance`, for the file with int8."""
    calibration_samples: int = 64
    """Samples of the training split, for the ranges of activations."""

    def validate(self) -> None:
        self.check_at_least("check_samples", 1)
        self.check_tolerance("tolerance")
        self.check_tolerance("int8_tolerance")
        self.check_at_least("calibration_samples", 1)
        if find_spec(self.package) is None:
            raise missing_extra(self.package, "edge", f"export={self.name}")

    def check_at_least(self, key: str, least: int) -> None:
        if getattr(self, key) < least:
            raise ConfigError(f"export.{self.name}.{key}={getattr(self, key)}: must be at least {least}")

    def check_tolerance(self, key: str) -> None:
        if not 0 < getattr(self, key) < math.inf:
            raise ConfigError(f"export.{self.name}.{key}={getattr(self, key)}: must be above 0, such as 1e-4")

    def export(self, traced: Traced, folder: Path) -> Iterator[Written]:
        """Write files into `folder`, one after the other; each is checked before the next is asked for.

        Raises:
            RunError: the model cannot be exported.
        """
        path = folder / self.file
        self.write(traced, path)
        yield Written(path, self.tolerance)
        if self.int8:
            quantized = path.with_stem(f"{path.stem}-int8")
            self.write_int8(traced, path, quantized)
            yield Written(quantized, self.int8_tolerance)

    def batch(self) -> int | None:
        """The batch size that its files take, with samples of the data's length; None: any, and any length of text."""
        return None

    @abstractmethod
    def write(self, traced: Traced, path: Path) -> None:
        """Write the model to `path`.

        Raises:
            RunError: it has no such form.
        """

    @abstractmethod
    def write_int8(self, traced: Traced, written: Path, path: Path) -> None:
        """Write to `path` the model that is already `written`, with int8 weights and activations.

        Raises:
            RunError: it has no such form.
        """

    @staticmethod
    @abstractmethod
    def opened(path: Path, threads: int) -> Run:
        """A file that was written, loaded by its runtime, with so many threads where it lets them be chosen."""
