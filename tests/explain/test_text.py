"""Texts as cases: words, what the model sees of a sample, and reasons that are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.explain.given import Given, Listed, shapley
from trainer.compress.factor import LowRankLinear
from trainer.compress.form import replace
from trainer.data.base import IGNORE, Samples
from trainer.data.text import Text
from trainer.data.tokenized import TokenizerKind
from trainer.errors import ConfigError
from trainer.explain.case import Case
from trainer.explain.decisions import decisions_of
from trainer.explain.integrated_gradients import IntegratedGradients
from trainer.explain.text import TextDecisions, words
from trainer.models.gpt import GPT
from trainer.models.hf import HF
from trainer.sections import PosttrainConfig

SPEC = {"vocab_size": 256, "seq_len": 32}


def sample(text: str) -> dict[str, np.ndarray]:
    ids = np.frombuffer(text.encode("latin-1"), np.uint8).astype(np.int64)
    return {"input_ids": ids[:-1], "labels": ids[1:]}


def written(place: Path, texts: list[str], **knobs: Any) -> Samples:
    """The train split of texts in files."""
    for number, text in enumerate(texts):
        (place / f"{number}.txt").write_text(text, encoding="utf-8")
    data = Text(paths=[str(place / "*.txt")], eval_fraction=0.0, workers=1, **knobs)
    data.validate()
    return data.open("train")


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_words_are_what_white_space_parts(tmp_path, monkeypatch, tokenizer):
    if tokenizer == "bpe":
        pytest.importorskip("tokenizers")
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))
    text = "def größe(x):\n    return x  # 漢字 naïve"
    samples = written(tmp_path, [text * 3], tokenizer=TokenizerKind[tokenizer], seq_len=16)
    ids = samples.encode(text)
    units, owner = words(samples, ids)
    assert units == ("def", " größe(x):", "\n    return", " x", "  #", " 漢字", " naïve")
    assert len(owner) == len(ids)
    assert owner == sorted(owner)
    for number, unit in enumerate(units):
        assert samples.decode([one for one, of in zip(ids, owner, strict=True) if of == number]) == unit


def test_tokens_that_are_no_text_stand_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))
    samples = written(tmp_path, ["some text to be read"], seq_len=4)
    assert words(samples, [*b"end", 256, *b"new one"]) == (("end", "<256>", "new", " one"), [0, 0, 0, 1, 2, 2, 2, 3, 3, 3, 3])


def test_a_character_that_is_cut_off_is_kept_together(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))
    samples = written(tmp_path, ["some text to be read"], seq_len=4)
    ids = samples.encode("漢字")
    assert words(samples, ids) == (("漢", "字"), [0, 0, 0, 1, 1, 1])
    assert words(samples, ids[1:]) == ((2 * "\N{REPLACEMENT CHARACTER}" + "字",), [0] * 5)


def test_without_white_space_each_token_is_a_unit():
    assert words(Listed([], SPEC, text=True), list(b"abc")) == (("a", "b", "c"), [0, 1, 2])


def test_what_is_no_text_has_numbers_for_words():
    assert words(Listed([], SPEC), [7, 7, 300]) == (("7", "7", "300"), [0, 1, 2])


class Weighed(nn.Module):
    """Two logits, each a sum of products with the embeddings: of each token as much as its place weighs."""

    def __init__(self, weights: Tensor, summed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(256, 6)
        self.head = nn.Linear(6, 2)
        self.weights, self.summed = weights, summed

    def forward(self, ids: Tensor) -> Tensor:
        logits = self.head(self.embed(ids) * self.weights[: ids.shape[1], None])
        return logits.sum(1) if self.summed else logits.cumsum(1)


def weighed(text: str, weights: list[float], summed: bool = False, **knobs: Any) -> tuple[Case, np.ndarray]:
    """A case of `Weighed`, and what each token adds."""
    torch.manual_seed(0)
    one, *background = (sample(each) for each in (text, "aab aab ", "the background"))
    if summed:
        one, *background = ({**each, "labels": np.asarray(1)} for each in (one, *background))
    module = Weighed(torch.tensor(weights), summed).eval()
    decisions = TextDecisions(Given(key="input_ids"), module, Listed([one], SPEC, text=True), Listed(background, SPEC, text=True), 1, **knobs)
    table = module.embed.weight.detach().double().numpy()
    direction = (module.head.weight[1] - module.head.weight[0]).detach().double().numpy()
    mean = np.mean([table[ord(letter)] for letter in "aab aabthe backgroun"], 0)
    ids = one["input_ids"]
    return decisions.case(0), (table[ids] - mean) @ direction * np.array(weights)[: len(ids)]


@pytest.mark.parametrize("summed", [False, True])
def test_each_word_of_a_linear_model_gets_what_its_tokens_add(summed):
    case, of_tokens = weighed("to be or", [0.0, 2.0, 1.0, -1.0, 0.5, 0.0, 3.0], summed)
    assert case.units == ("to", " be", " o")
    wanted = [of_tokens[:2].sum(), of_tokens[2:5].sum(), of_tokens[5:].sum()]
    assert shapley(case) == pytest.approx(wanted, abs=1e-5)
    pytest.importorskip("captum")
    found = IntegratedGradients(steps=2).explain(case, 0)
    assert found.values.numpy() == pytest.approx(wanted, abs=1e-5)
    assert found.base is not None
    assert found.base + sum(wanted) == pytest.approx(case.all_present(), abs=1e-5)


def test_of_a_long_text_the_end_is_seen_and_of_a_labelled_one_the_beginning():
    text, weights = "to be or not to be seen", [1.0] * 22
    assert "".join(weighed(text, weights, tokens=8)[0].units) == text[:-1][-8:]
    assert "".join(weighed(text, weights, summed=True, tokens=8)[0].units) == text[:8]


def predicted_from(one: dict[str, Any], tokens: int = 64) -> str:
    module = Weighed(torch.ones(64), summed=False)
    listed = Listed([{key: np.asarray(value) for key, value in one.items()}], SPEC, text=True)
    return "".join(TextDecisions(Given(key="input_ids"), module, listed, listed, 0, tokens=tokens).case(0).units)


def test_what_fills_a_sample_up_is_not_seen():
    assert predicted_from({"input_ids": [*b"ab cd", 0, 0], "labels": [*b"b cde", IGNORE, IGNORE]}) == "ab cd"


def test_other_documents_are_not_seen():
    labels = [*b"b", IGNORE, *b"d efg"]
    assert predicted_from({"input_ids": list(b"abcd ef"), "labels": labels, "document_ids": [0, 0, 1, 1, 1, 1, 1]}) == "cd ef"
    assert predicted_from({"input_ids": list(b"abcd ef"), "labels": labels, "document_ids": [0, 0, 1, 1, 1, 1, 1]}, tokens=3) == " ef"


def test_one_token_is_one_unit():
    assert predicted_from({"input_ids": [*b"a"], "labels": [*b"b"]}) == "a"


def test_no_token_is_refused():
    with pytest.raises(ConfigError, match=r"sample 0 of the evaluation split has no token .* data.packing=true joins short texts"):
        predicted_from({"input_ids": [*b"a"], "labels": [IGNORE]})


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Embedding(256, 4), nn.Embedding(256, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.first(ids) + self.second(ids)


class OneHot(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(256, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(F.one_hot(ids, 256).float())


@pytest.mark.parametrize(("module", "said"), [(Two(), r"Two has several \(first, second\)"), (OneHot(), "OneHot has none")])
def test_a_model_without_one_embedding_is_refused(module, said):
    listed = Listed([sample("to be")], SPEC, text=True)
    with pytest.raises(ConfigError, match=said):
        TextDecisions(Given(key="input_ids"), module, listed, listed).case(0)


def forms(name: str, place: Path) -> tuple[Any, nn.Module]:
    """A model of each kind with values of its own."""
    spec = {"vocab_size": 256, "seq_len": 32}
    torch.manual_seed(0)
    if name.startswith("gpt "):
        model: Any = GPT(layers=2, dim=32, heads=2, kv_heads=1, tie_embeddings=name == "gpt tied", vocab_size=300)
        module = model.build(spec)
        if name == "gpt compressed":
            replace(module, {"layers.1.mlp.up_proj": LowRankLinear.form(rank=4)})
        return model, module.eval()
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {
        "hf llama": lambda: transformers.LlamaConfig(**sizes, tie_word_embeddings=True),
        "hf gpt2": lambda: transformers.GPT2Config(vocab_size=256, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    }[name]()
    return HF(path=str(place)), transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("name", ["gpt plain", "gpt tied", "gpt compressed", "hf llama", "hf gpt2"])
def test_a_case_decides_as_the_model_does_and_values_add_up(tmp_path, name):
    pytest.importorskip("captum")
    model, module = forms(name, tmp_path)
    with torch.no_grad():  # large values, so that there is something to explain
        for parameter in module.parameters():
            parameter.mul_(2)
    listed = Listed([sample("def main(argv): return 0"), sample("and a background of words")], SPEC, text=True)
    decisions = decisions_of(model, module, listed, listed, PosttrainConfig(explain_background=2, explain_tokens=12))
    case = decisions.case(0)
    ids = torch.from_numpy(sample("def main(argv): return 0")["input_ids"][-12:])[None]
    with torch.no_grad():
        scores = model.outputs(module, {"input_ids": ids})[0, -1].double().softmax(-1)
    best = float(scores.max())
    assert case.all_present() == pytest.approx(np.log(best / (1 - best)), abs=1e-4)
    assert not module.training
    assert not any(layer._forward_hooks for layer in module.modules())
    found = IntegratedGradients(steps=64).explain(case, 0)
    assert found.base is not None
    assert float(found.values.sum()) == pytest.approx(case.all_present() - found.base, abs=2e-3 * abs(case.all_present() - found.base) + 1e-4)
    shown = json.loads(json.dumps(decisions.shown(0)))
    assert "".join(shown["words"]) == "gv): return "
    assert shown["truth"] == "0"
    assert shown["probability"] == pytest.approx(best)
    assert shown["predicted"] == shown["explained"] == chr(int(scores.argmax()))


def test_a_model_that_copies_the_first_token_is_explained_by_it():
    pytest.importorskip("captum")
    spec = {"vocab_size": 8, "seq_len": 6}
    model = GPT(layers=1, dim=32, heads=2)
    torch.manual_seed(0)
    module = model.build(spec)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        ids = torch.randint(8, (64, 6), generator=generator)
        labels = torch.full_like(ids, IGNORE)
        labels[:, -1] = ids[:, 0]
        optimizer.zero_grad()
        (model.loss(module, {"input_ids": ids, "labels": labels}) / 64).backward()
        optimizer.step()
    module.eval()
    samples = [{"input_ids": ids[number].numpy(), "labels": labels[number].numpy()} for number in range(20)]
    decisions = decisions_of(model, module, Listed(samples, spec), Listed(samples, spec), PosttrainConfig(explain_background=20))
    for number in range(5):
        case = decisions.case(number)
        assert decisions.shown(number)["predicted"] == f"<{ids[number, 0]}>"
        for values in (shapley(case), IntegratedGradients().explain(case, 0).values.numpy()):
            assert values.argmax() == 0
            assert values[0] > 5 * np.abs(values[1:]).max()
