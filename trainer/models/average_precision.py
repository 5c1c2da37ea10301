"""Average precision of boxes of one class, as COCO defines it (101 recalls, at most 100 boxes a picture)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())
MOST = 100
RECALLS = torch.from_numpy(np.linspace(0, 1, 101))  # to the last bit those of COCO's code, which recalls are often equal to


def rows(found: Sequence[Tensor], wanted: Tensor) -> Tensor:
    """What average precision is made of: for each true box a row of (1, 0, ...), for each one found (0, score, whether it is right at each of IOUS).

    found: for each picture (boxes, 5): left, top, right, bottom, score; wanted: (pictures, boxes, 4), those without area are none.
    """
    made = []
    for each, true in zip(found, wanted, strict=True):
        boxes, truth, right = judged(each, true)
        own = torch.zeros(len(truth), 2 + len(IOUS), dtype=torch.float64)
        own[:, 0] = 1
        made += [own, torch.cat([torch.zeros(len(boxes), 1, dtype=torch.float64), boxes[:, 4:], right.to(torch.float64)], dim=1)]
    return torch.cat(made)


def judged(found: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of one picture, in fp64: the boxes found that count, the surest first; the true ones; and which of those found are right, (boxes, len(IOUS)).

    found: (boxes, 5); wanted: (boxes, 4).
    """
    truth = wanted.cpu().to(torch.float64)
    truth = truth[area(truth) > 0]
    boxes = found.to(torch.float64)
    boxes = boxes[boxes[:, 4].sort(descending=True, stable=True).indices][:MOST]
    return boxes, truth, matched(iou(boxes[:, :4], truth))


def area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]).clamp(min=0) * (boxes[:, 3] - boxes[:, 1]).clamp(min=0)


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """(boxes, others): shared area over joint area."""
    corner = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    size = (torch.minimum(boxes[:, None, 2:], others[None, :, 2:]) - corner).clamp(min=0)
    shared = size[..., 0] * size[..., 1]
    return shared / (area(boxes)[:, None] + area(others)[None] - shared)


def matched(overlap: Tensor) -> Tensor:
    """(boxes, len(IOUS)): each box, the surest first, takes the true box that it covers best among those left."""
    right = torch.zeros(len(overlap), len(IOUS), dtype=torch.bool)
    if not overlap.numel():
        return right
    for column, least in enumerate(IOUS):
        left = overlap.clone()
        for box in range(len(left)):
            best, place = left[box].flip(0).max(0)  # of equal ones the last, as COCO's code takes them
            if best >= min(least, 1 - 1e-10):
                right[box, column] = True
                left[:, len(left[box]) - 1 - place] = -1
    return right


def average_precisions(table: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """ap (the mean over IOUS), ap50 and ap75, each (resamples,).

    table: rows of all pictures, in their order; weights: (resamples, rows), how often each counts.
    """
    true = table[:, 0] == 1
    wanted = weights[:, true].sum(1)
    order = table[~true, 1].sort(descending=True, stable=True).indices
    counts = weights[:, ~true][:, order]
    right = table[~true][order, 2:]
    each = torch.stack([_average(counts, right[:, column], wanted) for column in range(len(IOUS))], dim=1)
    return {"ap": each.mean(1), "ap50": each[:, 0], "ap75": each[:, 5]}


def _average(counts: Tensor, right: Tensor, wanted: Tensor) -> Tensor:
    hits = (counts * right).cumsum(1)
    told = counts.cumsum(1)
    if not told.shape[1]:
        return torch.zeros(len(counts), dtype=torch.float64)
    recall = hits / wanted.unsqueeze(1)
    precision = torch.nan_to_num(hits / told)
    best = precision.flip(1).cummax(1).values.flip(1)
    places = torch.searchsorted(recall.contiguous(), RECALLS.expand(len(recall), -1).contiguous())
    padded = torch.cat([best, torch.zeros(len(best), 1, dtype=best.dtype)], dim=1)
    return padded.gather(1, places).mean(1)
