"""What a student learns from its teacher."""

from __future__ import annotations

import torch

from trainer.compress.distilled import Distilled
from trainer.data.base import IGNORE
from trainer.models.craft import Craft

SPEC = {"channels": 3, "height": 32, "width": 48, "boxes": 1}


def test_a_detector_learns_from_its_teacher_where_labels_count():
    torch.manual_seed(0)
    model = Distilled(student=Craft(path=None, channels=4), teacher=Craft(path=None, channels=4), weight=0.25)
    module = model.build(SPEC)
    labels = torch.rand(2, 2, 16, 24)
    labels[0, :, 10:] = IGNORE
    batch = {"images": torch.rand(2, 3, 32, 48), "labels": labels, "boxes": torch.zeros(2, 1, 4)}
    mine, theirs = (getattr(module, name)(batch["images"]) for name in ("student", "teacher"))
    valid = labels != IGNORE
    wanted = 0.75 * (mine - labels)[valid].square().sum() + 0.25 * (mine - theirs)[valid].square().sum()
    torch.testing.assert_close(model.loss(module, batch), wanted)
    assert model.count(batch) == valid.sum()
