"""Average precision is COCO's; a bootstrap counts pictures as often as it draws them."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch

from trainer.models.average_precision import IOUS, average_precisions, rows


def picture(generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes found, some right, some nearly, some twice, some wrong, and true ones."""
    corners = generator.uniform(0, 80, (int(generator.integers(0, 9)), 2))
    truth = np.concatenate([corners, corners + generator.uniform(12, 30, corners.shape)], 1)
    near = np.concatenate([truth, truth[::2]]) + generator.normal(0, 1.5, (len(truth) + len(truth[::2]), 4))
    wrong = generator.uniform(0, 40, (int(generator.integers(0, 4)), 2))
    found = np.concatenate([near, np.concatenate([wrong, wrong + 20], 1)])
    return torch.tensor(np.concatenate([found, generator.random((len(found), 1))], 1)), torch.tensor(truth)


def coco(found: list[torch.Tensor], truth: list[torch.Tensor]) -> dict[str, float]:
    mask = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")

    def as_coco(box: torch.Tensor) -> list[float]:
        left, top, right, bottom = box[:4].tolist()
        return [left, top, right - left, bottom - top]

    boxes = [(number, box) for number, each in enumerate(truth) for box in each]
    with contextlib.redirect_stdout(io.StringIO()):
        known = mask.COCO()
        known.dataset = {
            "images": [{"id": number} for number in range(len(truth))],
            "categories": [{"id": 1}],
            "annotations": [
                {"id": i, "image_id": number, "bbox": as_coco(box), "area": float((box[2:] - box[:2]).prod()), "iscrowd": 0, "category_id": 1}
                for i, (number, box) in enumerate(boxes, 1)
            ],
        }
        known.createIndex()
        told = [{"image_id": number, "category_id": 1, "bbox": as_coco(box), "score": float(box[4])} for number, each in enumerate(found) for box in each]
        judged = cocoeval.COCOeval(known, known.loadRes(told), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return dict(zip(("ap", "ap50", "ap75"), judged.stats[:3].tolist(), strict=True))


def table(found: list[torch.Tensor], truth: list[torch.Tensor]) -> torch.Tensor:
    most = max(len(each) for each in truth)
    wanted = torch.stack([torch.cat([each, torch.zeros(most - len(each), 4, dtype=each.dtype)]) for each in truth])
    return rows(found, wanted)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_that_of_pycocotools(seed):
    generator = np.random.default_rng(seed)
    found, truth = map(list, zip(*(picture(generator) for _ in range(12)), strict=True))
    every = table(found, truth)
    mine = average_precisions(every, torch.ones(1, len(every), dtype=torch.float64))
    theirs = coco(found, truth)
    assert 0.1 < theirs["ap"] < theirs["ap50"] < 1
    assert {name: value.item() for name, value in mine.items()} == pytest.approx(theirs, abs=1e-12)


def test_a_picture_drawn_twice_counts_as_two():
    generator = np.random.default_rng(5)
    found, truth = map(list, zip(*(picture(generator) for _ in range(4)), strict=True))
    tables = [rows([one], other[None]) for one, other in zip(found, truth, strict=True)]
    weights = torch.cat([torch.full((len(each),), count, dtype=torch.float64) for each, count in zip(tables, (2, 0, 1, 1), strict=True)])
    drawn = torch.cat([tables[0], tables[0], tables[2], tables[3]])
    mine = average_precisions(torch.cat(tables), weights[None])
    wanted = average_precisions(drawn, torch.ones(1, len(drawn), dtype=torch.float64))
    for name, value in wanted.items():
        # Equal scores of the same picture come one after the other here, and as one there: precision between them is not seen.
        assert mine[name].item() == pytest.approx(value.item(), abs=2e-2)
        assert value.item() > 0.1


def test_nothing_found_is_nothing():
    every = rows([torch.zeros(0, 5)], torch.tensor([[[0.0, 0, 5, 5]]]))
    assert every.tolist() == [[1.0] + [0.0] * (1 + len(IOUS))]
    assert average_precisions(every, torch.ones(1, 1, dtype=torch.float64))["ap"].item() == 0
