"""Every kind of layer forgets, in order, and the model that is explained does not."""

from __future__ import annotations

import copy
import dataclasses
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.explain.evidence.explainers import Magnitude, Orders
from tests.explain.evidence.small import decisions
from trainer.compress.binarized import PackedConv2d, PackedLinear
from trainer.compress.factor import LowRankLinear
from trainer.compress.fake_quantized import FakeQuantizedLinear
from trainer.compress.form import replace
from trainer.compress.model import Compressed
from trainer.compress.quantized import Dynamic, Int4Linear, Int8, Static
from trainer.compress.tiled import WinogradConv2d
from trainer.data.synthetic import Synthetic, SyntheticKind
from trainer.explain.case import Case, log_odds
from trainer.explain.decisions import Decisions
from trainer.explain.evidence import sanity
from trainer.explain.evidence.budget import Counter
from trainer.explain.evidence.randomise import called, randomise, stages
from trainer.models.cnn import CNN
from trainer.models.gpt import GPT
from trainer.models.mlp import MLP


class Patches(Decisions):
    """Of pictures, in patches of 4 x 4; a picture of zeros is the background."""

    def case(self, index: int, module: nn.Module | None = None) -> Case:
        batch = self.batch(index)
        images = next(value for key, value in batch.items() if key != "labels").float()
        chosen = self.chosen(self.model.outputs(self.module, batch)[0])
        at = torch.arange(images.shape[-1]) // 4
        owner = (at.unsqueeze(1) * (int(at[-1]) + 1) + at).expand(images.shape[1:])
        units = tuple(map(str, range(int(owner.max()) + 1)))
        return Case(lambda rows: log_odds((module or self.module)(rows), chosen), images[0], torch.zeros_like(images), owner, units, index)

    def shown(self, index: int) -> dict[str, Any]:
        return {}


class Tokens(Decisions):
    """Of the next token after a text, in embeddings; the mean embedding is the background."""

    def case(self, index: int, module: nn.Module | None = None) -> Case:
        ids = self.batch(index)["input_ids"][:, :6]
        table = self.module.embed_tokens.weight.detach()  # type: ignore[union-attr]
        chosen = int(self.module(ids)[0, -1].argmax())
        inputs = table[ids[0]].clone()
        owner = torch.arange(len(inputs)).unsqueeze(1).expand_as(inputs)
        background = table.mean(0).expand(1, *inputs.shape).clone()
        return Case(partial(self._margin, module or self.module, chosen), inputs, background, owner, tuple(map(str, ids[0].tolist())), index)

    def _margin(self, module: Any, chosen: int, rows: Tensor) -> Tensor:
        hook = module.embed_tokens.register_forward_hook(lambda *_: rows)
        try:
            return log_odds(module(torch.zeros(rows.shape[:2], dtype=torch.int64))[:, -1], chosen)
        finally:
            hook.remove()

    def shown(self, index: int) -> dict[str, Any]:
        return {}


def built(model: Any, data: Synthetic, of: type[Decisions]) -> Decisions:
    samples = data.open("eval")
    torch.manual_seed(0)
    module = model.build(samples.spec).eval().requires_grad_(False)
    for value in module.parameters():  # as if it were trained: nothing is at its initial value
        value.add_(0.1 * torch.randn_like(value))
    return of(model, module, samples, samples)


def small(name: str) -> Decisions:
    if name == "mlp":
        return decisions(5, background=4)
    if name == "cnn":
        model = CNN(channels=[8, 8])
        return built(model, Synthetic(kind=SyntheticKind.images, eval_samples=8, classes=3), Patches)
    return built(GPT(layers=2, dim=16, heads=2, tie_embeddings=name == "tied"), Synthetic(eval_samples=8, vocab_size=32, seq_len=8), Tokens)


@pytest.mark.parametrize(
    ("name", "last", "layers"), [("mlp", "layers.2", 3), ("cnn", "head", 8), ("tied", "lm_head", 8), pytest.param("gpt", "lm_head", 8, marks=pytest.mark.large)]
)
def test_an_edge_detector_is_found_out_and_a_right_one_is_not(name, last, layers):
    found = small(name)
    before = copy.deepcopy(found.module.state_dict())
    for explainer, passed in ((Orders(orders=15), True), (Magnitude(), False)):
        measured = []
        for index in range(8):
            case = found.case(index)
            one = sanity.measured(explainer, found, case, explainer.explain(case, index), index, Counter())
            measured.append({"sanity": one})
            assert one["layers"][0] == last
            assert len(one["layers"]) == layers
            assert one["left"] == []
        (check,) = sanity.judged(measured)
        assert check.passed is passed, check
        if not passed:
            assert check.value == pytest.approx(1)
            assert "stays" in check.meaning
    for key, value in found.module.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_layers_are_taken_as_they_are_called():
    found = small("cnn")
    names = called(found.module, lambda: found.module(torch.zeros(1, 1, 8, 8)))
    assert names[:5] == ["stages.0.conv1", "stages.0.norm1", "stages.0.conv2", "stages.0.norm2", "stages.0.shortcut"]
    assert names[-1] == "head"


def test_a_layer_that_takes_no_part_is_left_out():
    module = nn.ModuleDict({"used": nn.Linear(2, 2), "teacher": nn.Linear(2, 2)})
    assert called(module, lambda: module["used"](torch.zeros(1, 2))) == ["used"]


def test_stages():
    assert stages(["a", "b", "c"], 8) == [["c"], ["b"], ["a"]]
    assert stages(list("abcdefg"), 4) == [["g"], ["f", "e"], ["d", "c"], ["b", "a"]]


FORMS: dict[str, tuple[nn.Module, Any]] = {
    "int8": (nn.Linear(16, 4), Int8.form()),
    "int8 conv": (nn.Conv2d(4, 4, 3, padding=1), Int8.form()),
    "dynamic": (nn.Linear(16, 4), Dynamic.form()),
    "static": (nn.Linear(16, 4), Static.form()),
    "int4": (nn.Linear(16, 4), Int4Linear.form(group_size=8)),
    "binary": (nn.Linear(16, 4), PackedLinear.form(kind="binary", activations="float")),
    "ternary conv": (nn.Conv2d(4, 4, 3, padding=1), PackedConv2d.form(kind="ternary", activations="float")),
    "as quantized": (nn.Linear(16, 4), FakeQuantizedLinear.form(kind="int8_static", group_size=8, sparse=False)),
    "winograd": (nn.Conv2d(4, 4, 3, padding=1), WinogradConv2d.form(tile=2)),
    "low rank": (nn.Linear(16, 4), LowRankLinear.form(rank=3)),
}


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_compressed_layers_forget(form):
    original, knobs = FORMS[form]
    module = replace(nn.Sequential(original), {"0": knobs}).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(0)
    for value in (*module.parameters(), *module.buffers()):
        value.copy_(
            torch.rand(value.shape, generator=generator) * 0.1 + 0.05 if value.is_floating_point() else torch.randint(0, 9, value.shape, generator=generator)
        )
    layer: Any = module[0]  # type: ignore[index]
    if form == "static":
        layer.weight_sums.copy_(layer.weight.sum(1))
    if form == "winograd":
        layer.for_inference()
    x = torch.randn(2, 4, 8, 8, generator=generator) if original.weight.ndim > 2 else torch.randn(2, 16, generator=generator)  # type: ignore[union-attr,operator]
    before = module(x)
    copied = copy.deepcopy(module)
    names = called(copied, lambda: copied(x))
    assert names
    state = copied.state_dict()
    kept = {name: value.clone() for name, value in state.items()}
    model = Compressed(base=MLP(), forms={"0": knobs})
    assert all(randomise(model, copied, name, 1) for name in names)
    after = copied(x)
    assert not torch.allclose(after, before, atol=1e-3)
    assert torch.equal(module(x), before)
    torch.rand(3)  # what was drawn before does not count
    again = copy.deepcopy(module)
    assert all(randomise(model, again, name, 1) for name in names)
    torch.testing.assert_close(again(x), after, rtol=0, atol=0)
    for name, value in kept.items():
        if not value.is_floating_point():  # shuffled within each output
            assert torch.equal(
                state[name].flatten(1).sort(1).values if value.ndim > 1 else state[name], value.flatten(1).sort(1).values if value.ndim > 1 else value
            )


def test_pre_trained_weights_are_shuffled_and_what_cannot_be_is_told():
    class Kept(MLP):
        def initialise(self, module: nn.Module, leaf: nn.Module) -> None:
            """Its initial values are the pre-trained ones."""

    found = decisions(5, background=4)
    model = Kept(hidden=[32, 32])
    module = copy.deepcopy(found.module)
    norm = nn.Sequential(nn.LayerNorm(4))
    assert randomise(model, module, "layers.0", 0)
    assert not torch.equal(module.layers[0].weight, found.module.layers[0].weight)  # type: ignore[index,union-attr]
    torch.testing.assert_close(module.layers[0].weight.sort(1).values, found.module.layers[0].weight.sort(1).values)  # type: ignore[index,union-attr]
    assert not randomise(model, norm, "0", 0)
    told = {"layers": ["a"], "signed": [0.1], "absolute": [0.1], "left": ["norm"]}
    (check,) = sanity.judged([{"sanity": told}] * 5)
    assert check.passed is True
    assert "Not re-initialised: norm" in check.meaning


def test_an_explainer_that_is_deaf_to_the_head_fails():
    found = [{"sanity": {"layers": ["head", "first"], "signed": [1.0, 0.0], "absolute": [1.0, 0.2], "left": []}}] * 5
    assert sanity.judged(found)[0].passed is False


def test_magnitudes_that_stay_fail_whatever_their_signs():
    found = [{"sanity": {"layers": ["head"], "signed": [sign], "absolute": [1.0], "left": []}} for sign in (1.0, -1.0, 1.0, -1.0, 0.0)]
    assert sanity.judged(found)[0].passed is False


def test_a_broken_explanation_of_an_untrained_model_is_left_out():
    found = [{"sanity": {"layers": ["head"], "signed": [None], "absolute": [None], "left": []}}] * 5
    (check,) = sanity.judged(found)
    assert check.value is None
    assert check.passed is None
    assert dataclasses.asdict(check)["details"] == {}
