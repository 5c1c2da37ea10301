"""A classifier of texts in which one word decides is explained by that word, from the file to the report."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from tests import ranks
from tests.explain.test_run import on_rank
from trainer import config as configs
from trainer.__main__ import train
from trainer.checkpoint.directory import list_whole
from trainer.cli import main
from trainer.explain.integrated_gradients import IntegratedGradients
from trainer.explain.run import explanations
from trainer.posttrain.__main__ import main as posttrain

WORDS = ["the", "a", "soup", "room", "view", "was", "and", "we", "came", "on", "monday", "with", "friends", "it", "rained"]
DECIDES = {"superb": "good", "awful": "bad"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on made-up reviews, in which one word says what is thought, or none does: so what is left without that word is known.

    Words are tokens: of bytes, the mean of their embeddings would be something that no text is like, and could mean any class.
    """
    pytest.importorskip("tokenizers")
    place = tmp_path_factory.mktemp("reviews")
    generator = random.Random(0)
    lines = ["review,stars"]
    for _ in range(300):
        words = generator.choices(WORDS, k=generator.randint(2, 6))
        word = generator.choice([*DECIDES, ""])
        if word:
            words.insert(generator.randint(0, len(words)), word)
        lines.append(f"{' '.join(words)},{DECIDES.get(word, 'neither')}")
    (place / "reviews.csv").write_text("\n".join(lines) + "\n")
    data = ["data=labelled_text", f"data.path={place / 'reviews.csv'}", "data.text=review", "data.target=stars", "data.tokenizer=bpe", "data.vocab_size=400"]
    model = ["model=text_classifier", "model.layers=1", "model.dim=32", "model.heads=2"]
    knobs = ["train.device=cpu", "log.progress=false", "train.max_steps=60", "optim.lr=0.005", "launcher.nproc_per_node=1"]
    assert main(train, [f"run_dir={place / 'run'}", *data, *model, *knobs]) == 0
    return place / "run"


def rows(run_dir: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "explain" / f"{name}.jsonl").read_text().splitlines()]


def test_the_word_that_decides_is_found_by_every_method(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("shap", "lime", "captum"):
        pytest.importorskip(package)
    asked = ["explain=[shap,lime,integrated_gradients]", "posttrain.explain_samples=6", "posttrain.evidence_samples=0"]
    assert posttrain([str(trained), *asked]) == 0
    assert "explained  6 decisions: log-odds of the class that the model predicts\n" in capsys.readouterr().out
    found = explanations(trained)
    for name in found["explainers"]:
        decided = set()
        for row in rows(trained, name):
            values = dict(zip(map(str.strip, row["units"]), row["values"], strict=True))
            if word := values.keys() & DECIDES.keys():
                assert {max(values, key=values.__getitem__)} == word, (name, row)
                decided |= word
        assert decided == set(DECIDES)
    for shown in found["shown"].values():
        truth = next((DECIDES[word.strip()] for word in shown["words"] if word.strip() in DECIDES), "neither")
        assert (shown["continues"], shown["explained"], shown["predicted"], shown["truth"]) == (False, truth, truth, truth)
    page = (trained / "report.html").read_text()
    assert re.search("explained: good .*sure., true: good", page)
    assert re.search("explained: bad .*sure., true: bad", page)


@pytest.mark.large
def test_any_number_of_ranks_tells_the_same(trained: Path) -> None:
    pytest.importorskip("captum")
    config = configs.load(trained / "config.yaml")
    config.explain = {"integrated_gradients": IntegratedGradients()}
    config.checkpoint.resume = str(list_whole(trained)[-1])
    config.posttrain.explain_samples, config.posttrain.evidence_samples = 6, 2
    texts = []
    for world in (1, 2):
        ranks.run(world, on_rank, config, preload=["captum.attr"])
        texts.append((trained / "explain" / "integrated_gradients.jsonl").read_text())
    assert texts[0].count("\n") == 6
    assert texts[0] == texts[1]


def test_the_other_class_can_be_asked_for(trained: Path) -> None:
    pytest.importorskip("captum")
    asked = ["explain=[integrated_gradients]", "posttrain.explain_samples=2", "posttrain.evidence_samples=0", "posttrain.explain_output=0"]
    assert posttrain([str(trained), *asked]) == 0
    found = explanations(trained)
    assert found["decision"] == "log-odds of class 0 (bad)"
    assert {shown["explained"] for shown in found["shown"].values()} == {"bad"}
