"""Writing and running ONNX files."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.errors import RunError
from trainer.export.base import Run
from trainer.export.traced import Traced

EXAMPLES = 2  # a batch of one would be taken for one that is always so
PACKED = ("INT8", "UINT8", "INT4", "UINT4")


def write(traced: Traced, path: Path) -> None:
    """The model with its dynamic shapes.

    Raises:
        RunError: an operation has no ONNX form.
    """
    from onnxscript import optimizer
    from onnxscript.ir.passes.common import ClearMetadataAndDocStringPass

    dynamic = [{0: torch.export.Dim.DYNAMIC, **({1: torch.export.Dim.DYNAMIC} if length else {})} for length in traced.lengths()]
    try:
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                traced.module,
                tuple(traced.inputs(EXAMPLES)),
                dynamo=True,
                dynamic_shapes=(tuple(dynamic),),
                input_names=traced.keys,
                output_names=["outputs"],
                optimize=False,
                verbose=False,
                custom_translation_table={torch.ops.aten._int_mm.default: _integer_product},
            )
    except torch.onnx.OnnxExporterError as error:
        raise RunError(f"export=onnx: this model has no ONNX form: {_cause(error)}") from error
    assert program is not None
    optimizer.optimize_ir(program.model, should_fold=_folds)
    ClearMetadataAndDocStringPass()(program.model)  # places in source files, several times as large as a small model
    program.save(path)


def write_int8(traced: Traced, written: Path, path: Path, samples: int) -> None:
    """What is `written`, with int8 weights and activations, ranges from `samples` samples of the training split."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(zip(*(value.split(1) for value in traced.inputs(samples, "train")), strict=True))

        def get_next(self) -> dict[str, Any] | None:  # type: ignore[override]
            found = next(self._left, None)
            return None if found is None else {key: value.numpy() for key, value in zip(traced.keys, found, strict=True)}

    prepared = written.with_name("prepared.onnx")
    with quiet():
        quant_pre_process(written, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    prepared.unlink()


def opened(path: Path, threads: int) -> Run:
    """`path` in ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> Tensor:
        (found,) = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
        return torch.from_numpy(found)

    return run


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say of their progress; their errors are raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _integer_product(a: Any, b: Any) -> Any:
    """What ONNX has for `torch._int_mm`, for which the exporter has no translation."""
    from onnxscript import opset18

    return opset18.MatMulInteger(a, b)


def _folds(node: Any) -> bool | None:
    """Weights that are stored as integers stay so: made into numbers ahead, they would be four times as large."""
    held = [value.const_value for value in node.inputs if value is not None]
    return False if any(value is not None and value.size > 1 and value.dtype.name in PACKED for value in held) else None


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
