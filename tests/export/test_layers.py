"""Layers of another form in other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.compress.binarized import PackedConv2d, PackedLinear
from trainer.compress.factor import LowRankConv2d, LowRankLinear
from trainer.compress.form import CompressedLayer
from trainer.compress.quantized import Dynamic, Int4Linear, Int8, Static
from trainer.compress.tiled import WinogradConv2d
from trainer.export import executorch_file, onnx_file

LINEAR, CONV = (nn.Linear(24, 16), (3, 5, 24)), (nn.Conv2d(4, 8, 3, padding=1), (3, 4, 9, 8))
BITS = {"kind": "ternary", "activations": "int8"}
CASES: list[tuple[type[CompressedLayer], dict[str, Any], tuple[nn.Module, tuple[int, ...]]]] = [
    (LowRankLinear, {"rank": 2}, LINEAR),
    (Int8, {}, LINEAR),
    (Dynamic, {}, LINEAR),
    (Static, {}, LINEAR),
    (Int4Linear, {"group_size": 8}, LINEAR),
    (PackedLinear, BITS, LINEAR),
    (LowRankConv2d, {"rank": 2}, CONV),
    (Int8, {}, CONV),
    (Dynamic, {}, CONV),
    (Static, {}, CONV),
    (PackedConv2d, BITS, CONV),
    (WinogradConv2d, {"tile": 4}, CONV),
]


class Called(nn.Module):
    def __init__(self, layer: CompressedLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.layer(*inputs)


class Alone:
    """A layer with drawn values, as what exporters take."""

    keys = ("x",)

    def __init__(self, layer: CompressedLayer, shape: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        for value in (*layer.parameters(), *layer.buffers()):
            drawn = torch.randn(value.shape) * 0.3 if value.is_floating_point() else torch.randint(0, 256 if value.dtype == torch.uint8 else 16, value.shape)
            value.data.copy_(drawn.abs() + 0.01 if value.shape == () else drawn)
        self.module = Called(layer).eval()
        self._shape = shape

    def inputs(self, count: int) -> list[Tensor]:
        return [torch.randn((count, *self._shape[1:]), generator=torch.Generator().manual_seed(1))]

    def lengths(self) -> list[bool]:
        return [False]


def case_id(case: Any) -> str:
    return f"{case[0].__name__}{'-conv' if case[2] is CONV else ''}"


@torch.no_grad()
@pytest.mark.parametrize("case", [case for case in CASES if case[0] in (PackedLinear, PackedConv2d, Int4Linear, WinogradConv2d, Dynamic)], ids=case_id)
def test_what_is_traced_computes_the_same_and_so_does_the_layer_afterwards(case: Any) -> None:
    layer_class, knobs, (plain, shape) = case
    alone = Alone(layer_class.replacing(plain, **knobs), shape)
    inputs = alone.inputs(2)
    traced = torch.export.export(alone.module, tuple(inputs)).module()
    assert torch.equal(traced(*inputs), alone.module(*inputs))


@torch.no_grad()
@pytest.mark.large
@pytest.mark.timeout(900)  # ExecuTorch's compiler takes minutes where the machine is busy
@pytest.mark.parametrize("runtime", ["onnx", "executorch"])
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_each_runtime_computes_what_pytorch_does(case: Any, runtime: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime" if runtime == "onnx" else runtime)
    layer_class, knobs, (plain, shape) = case
    alone: Any = Alone(layer_class.replacing(plain, **knobs), shape)
    if runtime == "onnx":
        onnx_file.write(alone, tmp_path / "file")
        run, inputs = onnx_file.opened(tmp_path / "file", 1), alone.inputs(7)
    else:
        executorch_file.write(alone, tmp_path / "file", 2)
        run, inputs = executorch_file.opened(tmp_path / "file"), alone.inputs(2)
    expected = alone.module(*inputs)
    assert torch.linalg.vector_norm(run(inputs) - expected) < 1e-5 * torch.linalg.vector_norm(expected)
