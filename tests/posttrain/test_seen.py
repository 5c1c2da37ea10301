"""Pictures in the report of a detector: they show what the two models find, and which of it is right."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("torch_pruning")
pytest.importorskip("scipy")
pytest.importorskip("PIL")

from PIL import Image

from tests.posttrain.test_pages import Checked
from trainer.__main__ import train
from trainer.cli import main
from trainer.models.average_precision import area
from trainer.models.craft import Craft
from trainer.posttrain.__main__ import main as posttrain
from trainer.posttrain.load import load

# Fresh weights give maps that are nearly flat, most of them below these thresholds.
MODEL = ["model=craft", "model.path=null", "model.channels=8", "train.seed=2", "model.text_threshold=0.24", "model.low_text=0.24", "model.grow=0.4"]
DATA = ["data=pages", "data.height=64", "data.width=96", "data.words=3", "data.largest=14", "data.samples=8", "data.eval_samples=4"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """compress.json of a small detector without some of its channels, with its pictures and its page."""
    path = tmp_path_factory.mktemp("runs") / "run"
    assert main(train, [f"run_dir={path}", "train.device=cpu", "train.stop_at=0", "log.progress=false", "eval.batch_size=2", *MODEL, *DATA]) == 0
    given = ["ratio=0.5", "layers=[basenet.slice4.*]", "calibration_samples=2"]
    measured = ["posttrain.quality=ap", "posttrain.higher_is_better=true", "posttrain.latency_pairs=0"]
    assert posttrain([str(path), "compress=[prune_structured]", *(f"compress.prune_structured.{knob}" for knob in given), *measured]) == 0
    (out,) = [each.parent for each in path.glob("compressed/*/compress.json")]
    pictures = json.loads((out / "pictures.json").read_text())
    return {**json.loads((out / "compress.json").read_text()), "pictures": pictures, "page": (out / "report.html").read_text()}


def decoded(picture: dict[str, Any]) -> torch.Tensor:
    kind, _, data = picture["image"].partition(",")
    assert kind == "data:image/jpeg;base64"
    return torch.from_numpy(np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), np.float32) / 255).permute(2, 0, 1)


def coarse(image: torch.Tensor) -> torch.Tensor:
    """Without the noise, of which JPEG leaves something out."""
    return F.avg_pool2d(image, 8)


def test_pictures_hold_what_the_models_find(found):
    assert len(found["pictures"]) == 3
    drawn = {"before": 0, "after": 0}
    for when, path in (("before", found["from"]), ("after", found["made"])):
        module, config = load(Path(path))
        detector = getattr(config.model, "base", config.model)
        assert isinstance(detector, Craft)
        for picture, number in zip(found["pictures"], (0, 1, 2), strict=True):
            batch = config.data.open("eval").batch([number])
            with torch.no_grad():
                maps = module(batch["images"])
            (boxes,) = detector.detections(maps)
            told = torch.tensor([box[:5] for box in picture[when]]).view(-1, 5)
            assert told.tolist() == sorted(boxes.tolist(), key=lambda box: -box[4])
            drawn[when] += len(told)
    assert min(drawn.values()) > 0


def test_pictures_are_the_samples(found):
    _, config = load(Path(found["from"]))
    samples = config.data.open("eval")
    for number, picture in enumerate(found["pictures"]):
        sample = samples.batch([number])
        wanted = sample["boxes"][0]
        assert picture["wanted"] == wanted[area(wanted) > 0].tolist()
        assert (picture["height"], picture["width"]) == (64, 96)
        assert (coarse(decoded(picture)) - coarse(sample["images"][0])).abs().mean() < 0.01
        assert (coarse(decoded(picture)) - coarse(samples.batch([3])["images"][0])).abs().mean() > 0.1


def test_the_page_draws_each_box_where_it_is(found):
    Checked(found["page"])
    figures = re.findall(r"<figure class=\"chart\"><h3>sample (\d), (before|after)</h3>(.*?)</figure>", found["page"])
    assert [(number, when) for number, when, _ in figures] == [(str(number), when) for number in (1, 2, 3) for when in ("before", "after")]
    for number, when, drawing in figures:
        picture = found["pictures"][int(number) - 1]
        assert picture["image"] in drawing
        right, wrong = ([box for box in picture[when] if box[5] is kind] for kind in (True, False))
        for kind, boxes in {"true": picture["wanted"], "right": right, "wrong": wrong}.items():
            outlines = re.findall(rf'class="box {kind}" d="([^"]*)"', drawing)
            corners = [[float(edge) for edge in re.split("[MHVZ ]", each)[1:5]] for each in "".join(outlines).split("Z")[:-1]]
            assert corners == [[pytest.approx(edge, abs=0.051) for edge in box[:4]] for box in boxes]
        assert f"<figcaption>{len(right)} of {len(picture['wanted'])} found; {len(wrong)} wrong</figcaption>" in drawing
