"""craft: the published network, from pixels to boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainer.assets import assets
from trainer.data.base import IGNORE
from trainer.data.pages import Pages
from trainer.data.score_maps import score_maps
from trainer.errors import ConfigError
from trainer.fetch import fetch
from trainer.models.average_precision import iou
from trainer.models.craft import Craft
from trainer.models.craft_boxes import boxes
from trainer.models.craft_module import Backbone

SPEC = {"channels": 3, "height": 48, "width": 64, "boxes": 3}


def test_features_are_those_that_a_relu_in_place_leaves():
    torch.manual_seed(0)
    backbone = Backbone(4)
    for norm in (each for each in backbone.modules() if isinstance(each, nn.BatchNorm2d)):
        nn.init.normal_(norm.bias)
    layers = [layer for part in list(backbone.children())[:-1] for layer in part.children()]
    parts = [layers[:12], layers[12:19], layers[19:29], layers[29:], list(backbone.slice5)]  # the published cut: before a ReLU
    x = torch.randn(2, 3, 32, 32)
    taken, y = [], x
    for part in parts:
        for layer in part:
            y = F.relu_(y) if isinstance(layer, nn.ReLU) else layer(y)
        taken.append(y)
    assert len(layers) == 39
    for mine, theirs in zip(reversed(backbone(x)), taken, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_the_loss_is_summed_over_valid_pixels():
    model = Craft(path=None, channels=4)
    module = model.build(SPEC)
    torch.manual_seed(0)
    labels = torch.rand(2, 2, 24, 32)
    labels[0, :, 10:] = IGNORE
    batch = {"images": torch.rand(2, 3, 48, 64), "labels": labels, "boxes": torch.zeros(2, 3, 4)}
    maps = module(batch["images"])
    wanted = F.mse_loss(maps[0, :, :10], labels[0, :, :10], reduction="sum") + F.mse_loss(maps[1], labels[1], reduction="sum")
    torch.testing.assert_close(model.loss(module, batch), wanted)
    assert model.count(batch) == 2 * 32 * (10 + 24)


def test_normalisation_keeps_its_statistics_in_training():
    module = Craft(path=None, channels=4).build(SPEC).train()
    before = {name: value.clone() for name, value in module.named_buffers()}
    x = torch.rand(3, 3, 48, 64)
    torch.testing.assert_close(module(x)[:1], module(x[:1]))
    assert all(torch.equal(value, before[name]) for name, value in module.named_buffers())


def test_parameters_may_be_of_another_dtype_than_statistics():
    torch.manual_seed(0)
    module = Craft(path=None, channels=4).build(SPEC)
    x = torch.rand(2, 3, 48, 64)
    wanted = module(x)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    assert module(x).dtype == torch.bfloat16
    torch.testing.assert_close(module(x).float(), wanted, rtol=0.02, atol=0.02)


def test_flops_are_those_that_torch_counts():
    model = Craft(path=None, channels=4)
    module = model.build(SPEC)
    with FlopCounterMode(display=False) as counter:
        module(torch.randn(1, 3, 48, 64))
    assert model.flops(module, SPEC)[0] * 2 * 24 * 32 == pytest.approx(3 * counter.get_total_flops())


def test_the_maps_of_words_become_their_boxes():
    letters = np.array([[[x, 20], [x + 12, 20], [x + 12, 40], [x, 40]] for x in (20.0, 33, 46, 100, 113)])
    found = boxes(score_maps([letters[:3], letters[3:]], 64, 160), 0.7, 0.4, 0.4, grow=0.4)
    truth = torch.tensor([[20.0, 20, 58, 40], [100.0, 20, 125, 40]])
    assert iou(found[:, :4], truth).diagonal().min() > 0.75
    assert len(boxes(np.zeros((2, 32, 32), np.float32), 0.7, 0.4, 0.4)) == 0
    faint = score_maps([letters], 64, 160) * 0.65
    assert len(boxes(faint, 0.7, 0.4, 0.4)) == 0
    assert len(boxes(faint, 0.6, 0.4, 0.4)) > 0


class Given(nn.Module):
    """Stands for a network that sees these maps."""

    def __init__(self, maps: np.ndarray) -> None:
        super().__init__()
        self.maps = torch.from_numpy(maps)[None]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.maps


def test_a_picture_says_which_boxes_are_right():
    letters = np.array([[[x, 20], [x + 12, 20], [x + 12, 40], [x, 40]] for x in (20.0, 33, 46, 100, 113)])
    batch = {"images": torch.rand(1, 3, 64, 160), "boxes": torch.tensor([[[20.0, 20, 58, 40], [104, 36, 129, 56], [0, 0, 0, 0]]])}
    (picture,) = Craft(path=None, grow=0.4).pictures(Given(score_maps([letters[:3], letters[3:]], 64, 160)), batch)
    assert torch.equal(picture.image, batch["images"][0])
    assert picture.wanted.tolist() == batch["boxes"][0, :2].tolist()
    left = picture.found[:, 0] < 80
    assert left.sum() == 1
    assert picture.right.tolist() == left.tolist()  # the other word is found 16 pixels above where it is
    assert (picture.found[:, 4].diff() <= 0).all()


@pytest.mark.parametrize(
    ("knobs", "what"),
    [
        ({"channels": 6}, "model.channels=6: must be a multiple of 4"),
        ({"path": None, "low_text": 0}, "model.low_text=0: must be between 0 and 1"),
        ({"path": "/nowhere", "channels": 8}, "model.channels=8: published weights have 64; give model.path=null for fresh ones"),
    ],
)
def test_what_cannot_be(knobs, what):
    with pytest.raises(ConfigError) as error:
        Craft(**{"channels": 64, **knobs}).validate()
    assert str(error.value) == what


def test_weights_that_are_not_there():
    with pytest.raises(ConfigError) as error:
        Craft(path="/nowhere").weights()
    assert str(error.value) == "model.path=/nowhere: is no directory with a model.safetensors; get one with: python -m trainer.fetch craft"


def test_data_without_boxes_is_refused():
    with pytest.raises(ConfigError, match=r"^model=craft needs pictures with boxes, but the data has .*\. Choose data=pages, or another model$"):
        Craft(path=None).check({"channels": 3, "height": 32, "width": 32, "classes": 2})
    with pytest.raises(ConfigError, match=r"^data.width=40: must be a multiple of 16 for model=craft$"):
        Craft(path=None).check({**SPEC, "width": 40})


@pytest.mark.large
def test_the_published_weights_find_words(tmp_path):
    from trainer.models.average_precision import average_precisions, rows

    place = fetch(assets()["craft"], tmp_path / "craft")
    model = Craft(path=str(place), grow=0.4)
    model.validate()
    samples = Pages(height=320, width=320, eval_samples=4).open("eval")
    module = model.build(samples.spec).eval()
    read = model.weights()
    assert read is not None
    module.load_state_dict({name: read(name) for name in module.state_dict()})
    assert sum(parameter.numel() for parameter in module.parameters()) == 20_770_466
    batch = samples.batch(range(4))
    with torch.no_grad():
        every = rows(model.detections(model.outputs(module, batch)), batch["boxes"])
    assert average_precisions(every, torch.ones(1, len(every), dtype=torch.float64))["ap50"].item() > 0.6
