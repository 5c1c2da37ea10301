"""Grad-CAM: the paper's formula, the layer that it is taken of, and what it refuses."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.explain.test_image import WORDS, decisions, detected, page, picture
from trainer.compress.form import replace
from trainer.compress.quantized import Int8
from trainer.errors import ConfigError
from trainer.explain.base import Kind
from trainer.explain.case import Case
from trainer.explain.convolutions import last_convolution
from trainer.explain.gradcam import GradCam
from trainer.models.cnn import CNN
from trainer.models.craft import Craft

pytest.importorskip("captum")
pytest.importorskip("skimage")


class Plain(nn.Module):
    """Two convolutions and a pool that halves between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.features = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def by_hand(case: Case, layer: nn.Module) -> Tensor:
    """Equations 1 and 2 of the paper."""
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda *told: kept.append(told[2]))
    margin = case.margin(case.inputs[None])
    handle.remove()
    (gradient,) = torch.autograd.grad(margin.sum(), kept[0])
    weights = gradient.mean((2, 3), keepdim=True)
    return (weights * kept[0]).sum(1).relu()[0].detach()


@pytest.mark.parametrize(("layer", "pixels"), [(None, 6), ("features.0", 12), ("features.4", 6)])
def test_the_map_is_the_paper_s(layer, pixels):
    module = Plain()
    case = decisions(module, picture(1, 12, 12), regions=9, output=0).case(0)
    found = GradCam(layer=layer).explain(case, 0)
    wanted = by_hand(case, module.get_submodule(layer or "features.3"))
    assert found.map is not None
    assert found.map.shape == (pixels, pixels)
    assert wanted.max() > 0
    torch.testing.assert_close(found.map, wanted.double())
    full = F.interpolate(wanted[None, None], (12, 12), mode="bilinear", align_corners=False)[0, 0].double()
    for number, value in enumerate(found.values.tolist()):
        assert value == pytest.approx(float(full[case.unit_of[0] == number].mean()), abs=1e-6)


def test_the_last_convolution_or_block_of_them_is_taken():
    plain, x = Plain(), picture(1, 16, 16)[None]
    assert last_convolution(plain, lambda: plain(x)) is plain.features[3]
    cnn = CNN(channels=[8, 16]).build({"channels": 1, "height": 16, "width": 16, "classes": 2})
    assert last_convolution(cnn, lambda: cnn(x)) is cnn.stages[1]  # type: ignore[index]
    craft = Craft(path=None, channels=8).build({"channels": 3, "height": 64, "width": 64, "boxes": 2}).eval()
    pages = picture(3, 64, 64)[None]
    assert last_convolution(craft, lambda: craft(pages)) is craft.get_submodule("conv_cls.6")
    assert last_convolution(craft, lambda: craft(pages), coarsest=True) is craft.get_submodule("upconv1")
    assert not any(layer._forward_hooks for layer in (*plain.modules(), *cnn.modules(), *craft.modules()))


def test_a_compressed_convolution_is_one():
    module = replace(Plain(), {"features.3": Int8.form()})
    for name, value in Plain().features[3].named_parameters():
        if name == "weight":
            module.get_submodule("features.3").weight.copy_((value * 100).round().to(torch.int8))  # type: ignore[operator, union-attr]
    with torch.no_grad():
        module.get_submodule("features.3").scale.fill_(0.01)  # type: ignore[operator, union-attr]
        module.get_submodule("features.3").bias.zero_()  # type: ignore[operator, union-attr]
    case = decisions(module, picture(1, 12, 12), regions=9, output=0).case(0)
    GradCam().check_module(module)
    torch.testing.assert_close(GradCam().explain(case, 0).map, by_hand(case, module.get_submodule("features.3")).double())


class Wide(nn.Module):
    """A detector of ink, through a bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 1, 8, stride=8, bias=False)
        self.head = nn.Conv2d(1, 2, 1, bias=False)
        nn.init.constant_(self.down.weight, -1 / 192)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([1.0, 0.0]).view(2, 1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.interpolate(self.down(images - 1), scale_factor=4.0))


def test_of_a_detector_only_the_box_is_hot():
    left, top, right, bottom, _ = WORDS[1]
    made = detected(page(*WORDS), regions=12)
    case = type(made)(made.model, Wide(), made.samples, made.background, regions=12).case(0)
    found = GradCam().explain(case, 0).map
    assert found is not None
    assert found.shape == (8, 12)
    hot = torch.zeros(8, 12)
    hot[top // 8 : bottom // 8, left // 8 : right // 8] = 1
    assert ((found > 0) == (hot > 0)).all()


def test_a_model_without_convolutions_is_refused():
    with pytest.raises(ConfigError) as error:
        GradCam().check_module(nn.Sequential(OrderedDict(one=nn.Linear(2, 3), two=nn.GELU())))
    assert str(error.value) == "explain=gradcam: the model has no convolution (it is made of Linear, GELU); take another explainer"


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ConfigError) as error:
        GradCam(layer="body.3").check_module(nn.Sequential(OrderedDict(one=nn.Conv2d(2, 3, 1), two=nn.GELU())))
    assert str(error.value) == "explain.gradcam.layer=body.3: the model has no such layer; it has one, two"


@pytest.mark.parametrize("layer", ["head", "unused"])
def test_a_layer_without_a_picture_is_refused(layer):
    module = Plain()
    module.add_module("unused", nn.Conv2d(1, 1, 1))
    case = decisions(module, picture(1, 12, 12), regions=9).case(0)
    with pytest.raises(ConfigError, match=rf"^explain.gradcam.layer={layer}: gives no "):
        GradCam(layer=layer).explain(case, 0)


def test_only_pictures_are_explained():
    GradCam().check(Kind.image)
    for kind in (Kind.tabular, Kind.text):
        with pytest.raises(ConfigError, match=rf"^explain=gradcam: explains image data, and this is {kind.name} data"):
            GradCam().check(kind)
