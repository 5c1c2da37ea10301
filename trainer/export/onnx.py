"""`export=onnx`: for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from trainer.export.base import Exporter, Run, Written

if TYPE_CHECKING:
    from trainer.export.traced import Traced


@dataclass(kw_only=True)
class Onnx(Exporter):
    """model.onnx, of any batch size and, for text, any length; with `int8`, model-int8.onnx too."""

    name: ClassVar[str] = "onnx"
    package: ClassVar[str] = "onnxruntime"
    runtime: ClassVar[str] = "onnxruntime"
    file: ClassVar[str] = "model.onnx"
    int8: bool = False
    """Also with int8 weights and activations, between QuantizeLinear and DequantizeLinear (QDQ), calibrated."""
    int8_tolerance: float = 0.1
    """As `tolerance`, for the file with int8."""
    calibration_samples: int = 64
    """Samples of the training split, for the ranges of activations."""

    def validate(self) -> None:
        super().validate()
        self.check_tolerance("int8_tolerance")
        self.check_at_least("calibration_samples", 1)

    def export(self, traced: Traced, folder: Path) -> Iterator[Written]:
        from trainer.export.onnx_file import calibrated

        yield from super().export(traced, folder)
        if self.int8:
            yield Written(calibrated(traced, folder / self.file, self.calibration_samples), self.int8_tolerance)

    def write(self, traced: Traced, path: Path) -> None:
        from trainer.export.onnx_file import write

        write(traced, path)

    @staticmethod
    def opened(path: Path, threads: int) -> Run:
        from trainer.export.onnx_file import opened

        return opened(path, threads)
