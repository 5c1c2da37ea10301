"""`winograd`: convolutions by minimal filtering against `torch.conv2d`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.options import Options
from benchmarks.passes import compare
from benchmarks.report import Row, Table

SHAPES = [(1, 64, 56), (8, 64, 56), (1, 128, 28), (8, 128, 28), (1, 256, 14), (8, 256, 14), (1, 512, 7), (8, 512, 7), (1, 512, 28), (8, 256, 57)]
QUICK = [(1, 16, 16)]
"""(images, channels, height and width): those of a ResNet at 224 x 224, one of more channels, and one with ragged edges."""
TRAINED = [(8, 128, 28), (8, 256, 14)]


def run(options: Options, directory: Path) -> Table:
    """Inference at all shapes, training at some, with tiles of 2 x 2 and 4 x 4."""
    rows = []
    for tile in (2, 4):
        rows += [forward(tile, shape, options) for shape in (QUICK if options.quick else SHAPES)]
        rows += [backward(tile, shape, options) for shape in (QUICK if options.quick else TRAINED)]
    notes = (
        "trainer: the layer of compress=[winograd] in fp32. other: torch.nn.Conv2d with the same weights. Images x channels (in and out) x height x width.",
        "Inference keeps the transformed weights; training transforms them in each pass, and goes backward. met: faster at this size; missed: slower.",
    )
    return Table("winograd", "time of a 3x3 convolution against torch.conv2d", notes, tuple(rows))


def forward(tile: int, shape: tuple[int, int, int], options: Options) -> Row:
    import torch

    plain, fast, x = _layers(tile, shape)
    fast.for_inference()

    def of(layer: torch.nn.Module) -> object:
        with torch.no_grad():
            return layer(x)

    return compare(f"F({tile}x{tile}), {_told(shape)}", lambda: of(fast), lambda: of(plain), options)


def backward(tile: int, shape: tuple[int, int, int], options: Options) -> Row:
    import torch

    plain, fast, x = _layers(tile, shape)
    x.requires_grad_()

    def of(layer: torch.nn.Module) -> object:
        return torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()])

    return compare(f"F({tile}x{tile}), {_told(shape)}, training", lambda: of(fast), lambda: of(plain), options)


def _layers(tile: int, shape: tuple[int, int, int]):
    import torch

    from trainer.compress.tiled import WinogradConv2d

    images, channels, size = shape
    plain = torch.nn.Conv2d(channels, channels, 3, padding=1)
    fast = WinogradConv2d.replacing(plain, tile=tile)
    fast.load_state_dict(plain.state_dict())
    return plain, fast, torch.randn(images, channels, size, size)


def _told(shape: tuple[int, int, int]) -> str:
    images, channels, size = shape
    return f"{images} x {channels} x {size} x {size}"
