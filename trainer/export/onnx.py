"""`export=onnx`: for ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from trainer.export.base import Exporter, Run

if TYPE_CHECKING:
    from trainer.export.traced import Traced


@dataclass(kw_only=True)
class Onnx(Exporter):
    """model.onnx, of any batch size and, for text, any length; with `int8` model-int8.onnx too, between QuantizeLinear and DequantizeLinear (QDQ)."""

    name: ClassVar[str] = "onnx"
    package: ClassVar[str] = "onnxruntime"
    runtime: ClassVar[str] = "onnxruntime"
    file: ClassVar[str] = "model.onnx"

    def write(self, traced: Traced, path: Path) -> None:
        from trainer.export.onnx_file import write

        write(traced, path)

    def write_int8(self, traced: Traced, written: Path, path: Path) -> None:
        from trainer.export.onnx_file import write_int8

        write_int8(traced, written, path, self.calibration_samples)

    @staticmethod
    def opened(path: Path, threads: int) -> Run:
        from trainer.export.onnx_file import opened

        return opened(path, threads)
