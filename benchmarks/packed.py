"""`packed`: linear layers of packed binary and ternary weights against fp32 and int8 ones."""

from __future__ import annotations

from pathlib import Path

from benchmarks.options import Options
from benchmarks.passes import compare
from benchmarks.report import Row, Table

SHAPES = [(1, 1024, 1024), (32, 1024, 1024), (1, 4096, 4096), (32, 4096, 4096), (512, 1024, 1024)]
QUICK = [(1, 128, 128)]
"""(tokens, inputs, outputs)."""


def run(options: Options, directory: Path) -> Table:
    """Both kinds at all shapes, against both."""
    shapes = QUICK if options.quick else SHAPES
    rows = [row for kind in ("binary", "ternary") for shape in shapes for row in measure(kind, shape, options)]
    notes = (
        "trainer: the layer of compress=[binarize], which unpacks its weights in each pass and multiplies int8 activations with them, exactly.",
        "other: torch.nn.Linear in fp32; or the same int8 activations times int8 weights, which are there unpacked (8 or 4 times the memory).",
        "Tokens x inputs x outputs. met: packed weights are faster at this size; missed: they are slower.",
    )
    return Table("packed", "time of a linear layer of packed weights", notes, tuple(rows))


def measure(kind: str, shape: tuple[int, int, int], options: Options) -> list[Row]:
    import torch

    from trainer.compress.binarize import Kind
    from trainer.compress.binarized import PackedLinear, digits_of
    from trainer.compress.digits import pack
    from trainer.compress.exact import product, to_levels

    tokens, inputs, outputs = shape
    plain, x = torch.nn.Linear(inputs, outputs, bias=False), torch.randn(tokens, inputs)
    digits = digits_of(Kind[kind], plain.weight.detach(), plain.weight.detach().abs().mean())
    packed = PackedLinear.replacing(plain, kind=kind, activations="int8")
    packed.weight.data = pack(Kind[kind], digits)
    packed.scale.data.fill_(0.01)
    unpacked = digits.to(torch.int8)

    def int8() -> object:
        levels, scale = to_levels(x, (-1,))
        return product(levels.to(torch.int8), unpacked) * scale * packed.scale

    @torch.no_grad()
    def of(layer: torch.nn.Module) -> object:
        return layer(x)

    told = f"{kind}, {tokens} x {inputs} x {outputs}"
    return [
        compare(f"{told}, fp32", lambda: of(packed), lambda: of(plain), options),
        compare(f"{told}, int8", lambda: of(packed), int8, options),
    ]
