"""Writing and running ExecuTorch programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.errors import RunError
from trainer.export.base import Run
from trainer.export.onnx_file import quiet
from trainer.export.traced import Traced


def _integer_product(a: Tensor, b: Tensor) -> Tensor:
    return (a.to(torch.float32) @ b.to(torch.float32)).to(torch.int32)


def _shifted(a: Tensor, bits: int) -> Tensor:
    return a // 2**bits


DECOMPOSED: dict[Any, Callable[..., Any]] = {torch.ops.aten._int_mm.default: _integer_product, torch.ops.aten.__rshift__.Scalar: _shifted}
"""Operations that ExecuTorch has no kernel for, by those that it has."""


def write(traced: Traced, path: Path, batch_size: int) -> None:
    """The model, its parts that XNNPACK has kernels for given to it.

    Raises:
        RunError: an operation has no portable form.
    """
    with _told():
        path.write_bytes(_lowered(traced.module, traced.inputs(batch_size)))


def write_int8(traced: Traced, path: Path, batch_size: int, samples: int) -> None:
    """The same with int8 weights, a scale for each channel, and activations, a scale for each, by PyTorch 2 Export Quantization (PT2E):
    ranges from `samples` samples of the training split, multiplied by XNNPACK's integer kernels. What these do not know stays fp32.

    Raises:
        RunError: an operation has no portable form.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    inputs = traced.inputs(batch_size)
    seen = traced.inputs(-(-samples // batch_size) * batch_size, "train")
    with _told():
        quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        watched = prepare_pt2e(torch.export.export(traced.module, tuple(inputs)).module(), quantizer)
        for batch in zip(*(value.split(batch_size) for value in seen), strict=True):
            watched(*batch)
        path.write_bytes(_lowered(convert_pt2e(watched), inputs))


def _lowered(module: torch.nn.Module, inputs: Sequence[Tensor]) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(module, tuple(inputs)).run_decompositions(DECOMPOSED)
    return to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer


@contextmanager
def _told() -> Iterator[None]:
    try:
        with torch.no_grad(), quiet():
            yield
    except Exception as error:  # of many kinds: each of the passes raises its own
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"export=executorch: this model has no ExecuTorch form: {said}") from error


def opened(path: Path) -> Run:
    """`path` in ExecuTorch's own runtime."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    assert method is not None

    def run(inputs: Sequence[Tensor]) -> Tensor:
        (found,) = method.execute([value.contiguous() for value in inputs])
        return found

    return run
