"""Pictures as cases: superpixels, reasons that are known, and one box of a detector."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.explain.given import Given, Listed, shapley
from trainer.data.synthetic import Synthetic, SyntheticKind
from trainer.errors import ConfigError
from trainer.explain.decisions import decisions_of
from trainer.explain.image import ImageDecisions, blurred, names, outlines, superpixels
from trainer.explain.integrated_gradients import IntegratedGradients
from trainer.models.craft import Craft
from trainer.models.mlp import MLP
from trainer.sections import PosttrainConfig

pytest.importorskip("skimage")


def picture(channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed))


def decisions(module: nn.Module, image: Tensor, **knobs: Any) -> ImageDecisions:
    channels, height, width = image.shape
    spec = {"channels": channels, "height": height, "width": width, "classes": 2}
    listed = Listed([{"images": image.numpy(), "labels": np.asarray(0)}], spec)
    return ImageDecisions(Given(), module.eval(), listed, listed, **knobs)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 24, 16), (2, 5, 9)])
@pytest.mark.parametrize("count", [1, 6, 40])
def test_superpixels_part_the_picture(shape, count):
    place = superpixels(picture(*shape), count)
    assert place.shape == shape[1:]
    assert set(np.unique(place)) == set(range(place.max() + 1))
    assert min(count, shape[1] * shape[2]) / 2 <= place.max() + 1 <= 2 * count
    assert (place == superpixels(picture(*shape), count)).all()


def test_superpixels_follow_the_edges():
    image = torch.zeros(3, 32, 32)
    image[0, :, 11:] = 1
    assert all(len(np.unique(superpixels(image, 4)[:, columns])) for columns in (slice(0, 11), slice(11, 32)))
    assert not set(np.unique(superpixels(image, 4)[:, :11])) & set(np.unique(superpixels(image, 4)[:, 11:]))


def test_more_superpixels_than_pixels_are_refused():
    with pytest.raises(ConfigError) as error:
        superpixels(picture(1, 4, 5), 21)
    assert str(error.value) == "posttrain.explain_regions=21: pictures of 4 x 5 have 20 pixels; give at most so many"
    assert superpixels(picture(1, 1, 1), 1).tolist() == [[0]]


def test_outlines_cover_each_region_and_nothing_else():
    place = superpixels(picture(3, 30, 22), 12)
    again = np.full_like(place, -1)
    for number, path in enumerate(outlines(place)):
        for left, top, width, height, back in re.findall(r"M(\d+) (\d+)h(\d+)v(\d+)H(\d+)z", path):
            assert back == left
            part = again[int(top) : int(top) + int(height), int(left) : int(left) + int(width)]
            assert (part == -1).all()
            part[:] = number
    assert (again == place).all()


def test_names_say_where_a_region_is():
    place = np.arange(9).reshape(3, 3)
    assert names(place)[:5] == ("region 1, top left", "region 2, top", "region 3, top right", "region 4, left", "region 5, middle")
    assert names(place)[8] == "region 9, bottom right"


def test_what_is_absent_keeps_its_colour_and_loses_its_shape():
    image = torch.zeros(1, 2, 16, 16)
    image[0, 0, :, 8:] = 1
    image[0, 1] = 0.25
    found = blurred(image)
    assert found[0, 1].tolist() == pytest.approx(np.full((16, 16), 0.25), abs=1e-6)
    steps = found[0, 0].diff(dim=1)
    assert steps.max() < 0.12  # of an edge of 1
    assert found[0, 0].mean() == pytest.approx(0.5, abs=1e-3)


class Linear(nn.Module):
    """Two logits, sums of products with all numbers of a picture."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, *shape, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] * self.weight).flatten(2).sum(2)


def test_each_region_of_a_linear_model_gets_what_its_pixels_add():
    image = picture(3, 12, 12)
    module = Linear((3, 12, 12))
    case = decisions(module, image, regions=8).case(0)
    assert 4 <= len(case) <= 12
    added = ((module.weight[1] - module.weight[0]).detach() * (image - blurred(image[None])[0])).sum(0).double().numpy()
    place = superpixels(image, 8)
    wanted = [added[place == number].sum() for number in range(len(case))]
    assert shapley(case) == pytest.approx(wanted, abs=1e-4)
    pytest.importorskip("captum")
    assert IntegratedGradients(steps=1).explain(case, 0).values.numpy() == pytest.approx(wanted, abs=1e-4)


class Corner(nn.Module):
    """Sees the upper left quarter alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[2] // 2
        features = torch.zeros_like(x).repeat(1, 4, 1, 1)
        features[:, :, :half, :half] = self.conv(x[:, :, :half, :half]).relu()
        return self.head(features.mean((2, 3)))


def test_what_a_model_does_not_see_has_no_value():
    case = decisions(Corner(), picture(1, 12, 12), regions=9).case(0)
    seen = {int(number) for number in case.unit_of[0, :6, :6].unique()}
    exact = shapley(case)
    for number, value in enumerate(exact):
        assert (abs(value) > 1e-6) == (number in seen)
    pytest.importorskip("captum")
    values = IntegratedGradients(steps=256).explain(case, 0).values.numpy()
    assert (values[[number for number in range(len(case)) if number not in seen]] == 0).all()
    assert values.sum() == pytest.approx(case.all_present() - case.none_present(), abs=0.01 * np.abs(values).sum())


def test_a_picture_that_fills_a_pass_alone_is_decided_the_same(monkeypatch):
    case = decisions(Corner(), picture(1, 12, 12), regions=9).case(0)
    present = torch.rand(20, len(case), generator=torch.Generator().manual_seed(0)) < 0.5
    at_once = case.value(present)
    monkeypatch.setattr("trainer.explain.image.PIXELS", 3 * 144)
    assert decisions(Corner(), picture(1, 12, 12), regions=9).case(0).value(present).tolist() == pytest.approx(at_once.tolist(), abs=1e-6)


def test_the_class_is_the_one_that_is_asked_for():
    image, module = picture(1, 12, 12), Corner()
    with torch.no_grad():
        logits = module.eval()(image[None])[0].double()
    for output, chosen in ((None, 1), (0, 0), (1, 1)):
        made = decisions(module, image, regions=9, output=output)
        assert made.case(0).all_present() == pytest.approx(float(logits[chosen] - logits[1 - chosen]), abs=1e-5)
        shown = made.shown(0)
        assert (shown["explained"], shown["predicted"], shown["truth"]) == (str(chosen), str(int(logits.argmax())), "0")
        assert shown["probability"] == pytest.approx(float(logits.softmax(0).max()))
    with pytest.raises(ConfigError, match=r"posttrain.explain_output=2: the model has the outputs 0 to 1"):
        decisions(module, image, regions=9, output=2).case(0)


def test_what_a_report_shows_is_plain_and_small():
    data = Synthetic(kind=SyntheticKind.images, samples=4, eval_samples=4, classes=3, height=9, width=7)
    held_out = data.open("eval")
    asked = PosttrainConfig(explain_background=4, explain_regions=6)
    made = decisions_of(MLP(hidden=[8]), MLP(hidden=[8]).build(held_out.spec).eval(), held_out, data.open("train"), asked)
    shown = json.loads(json.dumps(made.shown(1)))
    assert (shown["height"], shown["width"], len(shown["regions"]), len(shown["names"])) == (9, 7, len(made.case(1)), len(made.case(1)))
    assert shown["image"].startswith("data:image/png;base64,")
    assert shown["truth"] == str(int(held_out[1]["labels"]))


def test_a_detector_that_tells_no_boxes_is_refused():
    with pytest.raises(ConfigError, match=r"Given gives \(4, 12, 12\) numbers for a picture; give it `findings` to explain them"):
        decisions(nn.Conv2d(1, 4, 3, padding=1), picture(1, 12, 12)).case(0)


class Ink(nn.Module):
    """A detector whose region score of a place is how dark it is there, and that sees no links."""

    def forward(self, images: Tensor) -> Tensor:
        region = nn.functional.avg_pool2d(1 - images.mean(1, keepdim=True), 2)
        return torch.cat([region, torch.zeros_like(region)], 1)


def page(*words: tuple[int, int, int, int, float]) -> Tensor:
    image = torch.ones(3, 64, 96)
    for left, top, right, bottom, ink in words:
        image[:, top:bottom, left:right] = 1 - ink
    return image


def detected(image: Tensor, **knobs: Any) -> ImageDecisions:
    pytest.importorskip("scipy")
    listed = Listed([{"images": image.numpy(), "labels": np.zeros((2, 32, 48), np.float32)}], {"channels": 3, "height": 64, "width": 96, "boxes": 2})
    return ImageDecisions(Craft(path=None, channels=8, grow=0.0), Ink(), listed, listed, **knobs)


WORDS = ((4, 4, 36, 20, 0.8), (56, 40, 88, 56, 1.0))


def test_one_box_is_explained_by_what_is_in_it():
    pytest.importorskip("captum")
    for output, (left, top, right, bottom, ink) in zip((None, 1), reversed(WORDS), strict=True):
        made = detected(page(*WORDS), output=output, regions=12)
        case, shown = made.case(0), made.shown(0)
        assert case.box == shown["box"] == (left, top, right, bottom)
        assert shown["score"] == pytest.approx(ink)
        assert case.all_present() == pytest.approx(ink, abs=1e-5)
        values = IntegratedGradients(steps=1).explain(case, 0).values.numpy()
        within = {int(number) for number in case.unit_of[0, top:bottom, left:right].unique()}
        assert {number for number, value in enumerate(values) if abs(value) > 1e-6} <= within
        assert values.sum() == pytest.approx(case.all_present() - case.none_present(), abs=1e-5)
        assert values.sum() > 0.3


def test_a_page_without_a_box_is_explained_where_it_comes_nearest():
    made = detected(page((40, 20, 42, 22, 0.6)), regions=12)
    left, top, right, bottom = made.shown(0)["box"]
    assert left <= 40 < 42 <= right
    assert top <= 20 < 22 <= bottom
    assert made.shown(0)["score"] == pytest.approx(0.6)


def test_a_box_that_is_not_there_is_refused():
    with pytest.raises(ConfigError) as error:
        detected(page(*WORDS), output=2).case(0)
    assert str(error.value) == "posttrain.explain_output=2: sample 0 has 2 boxes to explain, from 0, the surest, on; null takes that"
