"""Writing and running ExecuTorch programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(traced.module, tuple(traced.inputs(batch_size))).run_decompositions(DECOMPOSED)
            made = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    except Exception as error:  # of many kinds: each of its passes raises its own
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"export=executorch: this model has no ExecuTorch form: {said}") from error
    path.write_bytes(made.buffer)


def opened(path: Path) -> Run:
    """`path` in ExecuTorch's own runtime."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    assert method is not None

    def run(inputs: Sequence[Tensor]) -> Tensor:
        (found,) = method.execute([value.contiguous() for value in inputs])
        return found

    return run
