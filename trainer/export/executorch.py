"""`export=executorch`: for ExecuTorch on phones and small boards, with the kernels of XNNPACK."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from trainer.export.base import Exporter, Run

if TYPE_CHECKING:
    from trainer.export.traced import Traced


@dataclass(kw_only=True)
class ExecuTorch(Exporter):
    """model.pte, of one batch size and, for text, the data's length: memory is planned ahead. With `int8` model-int8.pte too, quantized by PT2E."""

    name: ClassVar[str] = "executorch"
    package: ClassVar[str] = "executorch"
    runtime: ClassVar[str] = "executorch.runtime"
    file: ClassVar[str] = "model.pte"
    batch_size: int = 1
    """Samples in a batch."""

    def validate(self) -> None:
        super().validate()
        self.check_at_least("batch_size", 1)

    def batch(self) -> int:
        return self.batch_size

    def write(self, traced: Traced, path: Path) -> None:
        from trainer.export.executorch_file import write

        write(traced, path, self.batch_size)

    def write_int8(self, traced: Traced, written: Path, path: Path) -> None:
        from trainer.export.executorch_file import write_int8

        write_int8(traced, path, self.batch_size, self.calibration_samples)

    @staticmethod
    def opened(path: Path, threads: int) -> Run:
        from trainer.export.executorch_file import opened

        return opened(path)
