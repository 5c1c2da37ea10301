"""text_classifier: looks both ways, padding changes nothing, the same under every strategy."""

from __future__ import annotations

import dataclasses
import functools
import random
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests import ranks, tiny
from tests.checkpoint.test_strict import STRATEGIES
from tests.strategies import zero
from tests.strategies.test_equality import SGD
from trainer.config import Config
from trainer.data.labelled_text import LabelledText
from trainer.errors import ConfigError
from trainer.models.gpt import GPT
from trainer.models.text_classifier import TextClassifier

SPEC = {"vocab_size": 50, "seq_len": 24, "classes": 3, "mean_tokens": 24.0}
TINY = {"layers": 2, "dim": 16, "heads": 2}


def built(**knobs) -> tuple[TextClassifier, torch.nn.Module]:
    torch.manual_seed(0)
    model = TextClassifier(**{**TINY, **knobs})
    return model, model.build(SPEC)


def padded() -> dict[str, torch.Tensor]:
    """Three texts of 24, 9 and 1 tokens."""
    ids = torch.randint(50, (3, 24), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(24) < torch.tensor([24, 9, 1])[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([2, 0, 1])}


def test_a_text_has_the_same_logits_alone_as_padded():
    model, module = built()
    module.double()
    batch = padded()
    alone = torch.cat([module(batch["input_ids"][number : number + 1, :length]) for number, length in enumerate((24, 9, 1))])
    torch.testing.assert_close(model.outputs(module, batch), alone, rtol=1e-12, atol=1e-12)
    assert model.count(batch) == 3
    torch.testing.assert_close(model.loss(module, batch), torch.nn.functional.cross_entropy(alone, batch["labels"], reduction="sum"))


def test_hidden_states_are_those_of_transformers_llama_that_looks_both_ways():
    transformers = pytest.importorskip("transformers")
    model, module = built()
    for parameter in module.parameters():  # large values, so that a mask or a position that is wrong shows
        parameter.data.mul_(5)
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=module.layers[0].mlp.up_proj.out_features,  # type: ignore[index, union-attr]
        num_hidden_layers=2,
        num_attention_heads=2,
        rms_norm_eps=1e-5,
    )
    reference = transformers.LlamaModel(config)
    reference.load_state_dict({name: value for name, value in module.state_dict().items() if not name.startswith("head.")}, strict=True)
    batch = padded()
    hidden = torch.zeros(3, 1, 24, 24).masked_fill(batch["attention_mask"][:, None, None] == 0, -1e9)
    states = reference(batch["input_ids"], attention_mask=hidden).last_hidden_state
    means = torch.stack([states[number, :length].mean(0) for number, length in enumerate((24, 9, 1))])
    torch.testing.assert_close(model.outputs(module, batch), module.head(means), rtol=1e-4, atol=1e-5)  # type: ignore[operator]


def test_operations_are_those_that_torch_counts():
    model, module = built()
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        module(padded()["input_ids"][:1])
    norms_and_bias = 24 * 6 * 2 * 2 * 16 + 6 * 3  # not counted there: they are no products of matrices
    assert model.flops(module, SPEC)[0] - norms_and_bias == 3 * counter.get_total_flops()


def test_dropout_is_no_part_of_what_it_is():
    assert TextClassifier(dropout=0.5).identity() == TextClassifier().identity()
    assert TextClassifier(layers=3).identity() != TextClassifier().identity()
    _, module = built(dropout=0.5)
    ids = padded()["input_ids"]
    assert not torch.equal(module(ids), module(ids))
    assert torch.equal(module.eval()(ids), module(ids))


@pytest.mark.parametrize("spec", [{"features": 3, "classes": 2}, {"vocab_size": 5, "seq_len": 3}])
def test_data_that_is_no_labelled_text(spec):
    with pytest.raises(ConfigError, match=r"^model=text_classifier needs texts with a class each, but the data has .*\. Choose data=labelled_text, or another"):
        TextClassifier().check(spec)


def test_a_language_model_is_refused_labelled_texts():
    with pytest.raises(ConfigError) as caught:
        GPT().check(SPEC)
    said = "model=gpt predicts the next token, but the data has a class for each text. Choose model=text_classifier, or data=text"
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"layers": 0}, "model.layers=0: must be at least 1"),
        ({"heads": 3}, "model.heads=3: model.dim=128 must be an even multiple of it, for rotary positions"),
        ({"dim": 12, "heads": 4}, "model.heads=4: model.dim=12 must be an even multiple of it, for rotary positions"),
        ({"dropout": 1.0}, "model.dropout=1.0: must be at least 0 and below 1"),
    ],
)
def test_values_that_never_work(knobs, message):
    with pytest.raises(ConfigError) as caught:
        TextClassifier(**knobs).validate()
    assert str(caught.value) == message


@functools.cache
def trained(name: str, path: Path) -> list[tiny.Trained]:
    """On uneven texts, the whole share of a rank at once, so that each pads to another length than one process does.

    By SGD: AdamW makes large steps of rounding.
    """
    strategy, world = STRATEGIES[name]
    config = tiny.config(strategy, model=TextClassifier(**TINY), optim=SGD, micro_batch_size=None)
    config = dataclasses.replace(config, data=LabelledText(path=str(path), seq_len=20, eval_fraction=0.2))
    return (zero.run if name.startswith("zero") else ranks.run)(world, on_rank, config)


def on_rank(config: Config) -> tiny.Trained:
    return tiny.train(config)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefgh ", k=generator.randint(1, 30))) + "." for _ in range(60)]
    path.write_text("text,label\n" + "".join(f"{word},{'no' if 'a' in word else 'yes'}\n" for word in words))
    return path


@pytest.mark.parametrize(
    "name", ["ddp", "fsdp", *(pytest.param(name, marks=pytest.mark.large) for name in STRATEGIES if name not in ("single", "ddp", "fsdp"))]
)
def test_equal_to_one_process(name: str, texts: Path) -> None:
    expected = trained("single", texts)[0]
    assert set(expected.evaluated) == {"loss", "accuracy"}
    for of_rank in trained(name, texts):
        tiny.assert_equal(of_rank, expected)
