"""The practical of docs/detector.md with the published weights: brought in, measured, pruned, trained, and drawn."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trainer.__main__ import train
from trainer.assets import assets
from trainer.cli import main
from trainer.fetch import fetch

pytestmark = [pytest.mark.large, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """compress.json, with the pictures and the page that are beside it."""
    pytest.importorskip("torch_pruning")
    place = tmp_path_factory.mktemp("detector")
    given = [f"model.path={fetch(assets()['craft'], place / 'craft')}", f"run_dir={place / 'run'}", "posttrain.latency_pairs=0", "log.progress=false"]
    assert main(train, ["experiment=pruned_detector", "train.device=cpu", "eval.at_end=false", *given]) == 0
    (path,) = (place / "run" / "compressed").glob("*/compress.json")
    pictures = json.loads((path.parent / "pictures.json").read_text())
    return {**json.loads(path.read_text()), "pictures": pictures, "page": (path.parent / "report.html").read_text()}


def metric(found: dict[str, Any], when: str, name: str) -> float:
    return found[when]["metrics"][name]["value"]


def test_pages_are_hard_enough(found):
    assert 0.3 < metric(found, "before", "ap") < 0.6
    assert 0.5 < metric(found, "before", "ap50") < 0.9


def test_most_of_the_arithmetic_goes_and_the_words_are_found(found):
    assert found["after"]["macs"] <= 0.405 * found["before"]["macs"]
    assert found["after"]["parameters"] < 0.4 * found["before"]["parameters"]
    assert metric(found, "after", "ap") > metric(found, "before", "ap") - 0.05
    assert metric(found, "after", "ap50") > metric(found, "before", "ap50") - 0.03


def test_the_report_tells_what_each_layer_bears_and_shows_what_is_found(found):
    layers = found["layers"]["prune_structured"]
    assert max(layers, key=lambda name: layers[name]["loss at 0.5"]) in ("upconv4.conv.0", "basenet.slice1.10")  # the finest features
    assert len(found["pictures"]) == 3
    for when in ("before", "after"):
        assert sum(box[5] for picture in found["pictures"] for box in picture[when]) >= 5
    assert all(picture["image"] in found["page"] for picture in found["pictures"])
    assert "loss at 0.25" in found["page"]
