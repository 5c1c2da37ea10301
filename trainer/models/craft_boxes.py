"""From CRAFT's score maps to boxes: connected components (section 3.2 of the paper, with axis-aligned boxes)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from trainer.errors import missing_extra

SMALLEST = 10  # pixels of a map that a component has at least
HALF = 4  # pixels of a map on each side of the best place
SCALE = 2  # pixels of the picture for one of the map


def boxes(maps: np.ndarray, text_threshold: float, low_text: float, link_threshold: float, grow: float = 1.0) -> Tensor:
    """(boxes, 5): left, top, right, bottom in pixels of the picture, and the score, its best region score.

    maps: (2, height, width), region and affinity scores; grow: the share of the published growth.
    """
    try:
        from scipy import ndimage
    except ImportError as error:
        raise missing_extra("scipy", "detect", "finding boxes") from error
    region, affinity = maps
    text = region > low_text
    labels, count = ndimage.label(text | (affinity > link_threshold))  # type: ignore[misc]
    if not count:
        return torch.zeros(0, 5)
    numbers = np.arange(1, count + 1)
    sizes = ndimage.sum_labels(np.ones_like(region), labels, numbers)
    best = ndimage.maximum(region, labels, numbers)
    links = labels * text  # what only links is no part of a box
    found = []
    for number, place in enumerate(ndimage.find_objects(links, count), 1):
        if place is None or sizes[number - 1] < SMALLEST or best[number - 1] < text_threshold:
            continue
        (top, bottom), (left, right) = ((part.start, part.stop) for part in place)
        grown = grow * _grown(int(sizes[number - 1]), right - left, bottom - top)
        box = (max(left - grown, 0), max(top - grown, 0), min(right + grown, region.shape[1]), min(bottom + grown, region.shape[0]))
        found.append([*(SCALE * edge for edge in box), float(best[number - 1])])
    return torch.tensor(found, dtype=torch.float32).view(-1, 5)


def best_place(region: Tensor) -> Tensor:
    """(1, 5), as of `boxes`: a square around the best of the region scores, (height, width)."""
    height, width = region.shape
    row, column = divmod(int(region.argmax()), width)
    left, top, right, bottom = max(column - HALF, 0), max(row - HALF, 0), min(column + HALF + 1, width), min(row + HALF + 1, height)
    return torch.tensor([[*(SCALE * edge for edge in (left, top, right, bottom)), float(region.max())]])


def inside(left: float, top: float, right: float, bottom: float) -> Callable[[Tensor], Tensor]:
    """From maps, (n, 2, height, width), to (n,): the mean region score in a box in pixels of the picture.

    The score itself is the margin: CRAFT's last layer is linear, there is no sigmoid to undo.
    """
    rows = slice(int(top) // SCALE, max(int(top) // SCALE + 1, math.ceil(bottom / SCALE)))
    columns = slice(int(left) // SCALE, max(int(left) // SCALE + 1, math.ceil(right / SCALE)))
    return lambda maps: maps[:, 0, rows, columns].mean((1, 2))


def _grown(size: int, width: int, height: int) -> float:
    """By how much the published code dilates a component on each side: its scores fall off before the characters end."""
    return math.sqrt(size * min(width, height) / (width * height))
