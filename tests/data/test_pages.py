"""pages: what is rendered is where it is said to be; one's own pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trainer.data.base import IGNORE
from trainer.data.pages import Pages
from trainer.errors import ConfigError

PIL = pytest.importorskip("PIL.Image")

COCO = {
    "images": [{"id": number, "file_name": f"{number}.png"} for number in range(6)],
    "annotations": [{"id": number, "image_id": number, "bbox": [10, 20, 30, 10]} for number in range(6)],
}
VOC = "<annotation><filename>{0}.png</filename><object><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>30</ymax></bndbox></object></annotation>"


def plain(**knobs) -> Pages:
    return Pages(**{"height": 96, "width": 128, "words": 4, "samples": 4, "eval_samples": 4, "largest": 24, **knobs})


def test_a_page_is_a_function_of_its_number():
    pages, again = plain().open("train"), plain().open("train")
    for key, value in pages[2].items():
        assert np.array_equal(value, again[2][key])
        assert not np.array_equal(value, pages[3][key])
    assert not np.array_equal(pages[2]["images"], plain().open("eval")[2]["images"])
    assert len({each.fingerprint for each in (pages, plain().open("eval"), plain(noise=0.0).open("train"), plain(seed=1).open("train"))}) == 4


@pytest.mark.parametrize("rotation", [0.0, 30.0])
def test_boxes_hold_all_the_ink_and_nothing_more(rotation, monkeypatch):
    from trainer.data import rendered

    monkeypatch.setattr(rendered, "_background", lambda paper, size, generator: rendered.Image.new("RGB", size, (255, 255, 255)))
    monkeypatch.setattr(rendered, "_away_from", lambda paper, generator: np.zeros(3))
    monkeypatch.setattr(rendered.ImageFilter, "GaussianBlur", lambda radius: rendered.ImageFilter.Kernel((3, 3), [0] * 4 + [1] + [0] * 4))
    samples = plain(clutter=0, noise=0.0, rotation=rotation, samples=6).open("train")
    seen = 0
    for index in range(6):
        sample = samples[index]
        dark = sample["images"][0] <= 1 - rendered.INK / 255
        inside = np.zeros_like(dark)
        for left, top, right, bottom in sample["boxes"].astype(int)[(sample["boxes"] != 0).any(1)]:
            edges = dark[top:bottom, left:right]
            assert all(side.any() for side in (edges[0], edges[-1], edges[:, 0], edges[:, -1]))
            inside[top:bottom, left:right] = True
            seen += 1
        assert not (dark & ~inside).any()
        middle = sample["labels"][0] > 0.7
        assert middle.any()
        assert not (middle & ~inside[::2, ::2] & ~inside[1::2, 1::2]).any()
    assert seen > 5


def write_pictures(tmp_path) -> None:
    for number in range(6):
        PIL.new("RGB", (100, 50), (number, 0, 0)).save(tmp_path / f"{number}.png")


def test_one_s_own_pictures_in_either_format_are_the_same(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "boxes.json").write_text(json.dumps(COCO))
    for number in range(6):
        (tmp_path / f"{number}.xml").write_text(VOC.format(number))
    found = []
    for path in (tmp_path / "boxes.json", tmp_path):
        knobs = Pages(path=str(path), height=64, width=64, eval_fraction=0.3)
        knobs.validate()
        split = [knobs.open("train"), knobs.open("eval")]
        assert sum(map(len, split)) == 6
        assert all(map(len, split))
        found.append(split[0][0])
    for key, value in found[0].items():
        assert np.array_equal(value, found[1][key])
    assert found[0]["boxes"].tolist() == pytest.approx(np.array([[10.0, 20, 40, 30]]) * 0.64)
    labels = found[0]["labels"]
    assert (labels[:, :16] >= 0).all()
    assert (labels[:, 16:] == IGNORE).all()
    assert labels[0, :16].max() > 0.7


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({**COCO, "images": [*COCO["images"], {"id": 9, "file_name": "9.png"}]}, "names the picture .*9.png, which is not there$"),
        ({**COCO, "annotations": [{"id": 1, "image_id": 0, "bbox": [1, 2, 0, 3]}]}, r"0.png has a box without area: \[1.0, 2.0, 1.0, 5.0\]$"),
        ({"images": COCO["images"]}, "is not COCO's format: KeyError 'annotations'; it needs images and annotations with bbox$"),
        ({"images": [], "annotations": []}, "has no picture; give a COCO .json file, or a directory of Pascal VOC .xml files$"),
    ],
)
def test_pictures_that_cannot_be_used(content, what, tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=what):
        Pages(path=str(tmp_path / "boxes.json")).open("train")


@pytest.mark.parametrize(
    ("knobs", "what"),
    [
        ({"words": 0}, "data.words=0: must be at least 1"),
        ({"smallest": 50}, "data.smallest=50 data.largest=44: must be 6 <= smallest <= largest <= half of height=320"),
        ({"path": "x.json", "clutter": 3}, "data.clutter=3: has no effect with data.path, whose pictures are as they are"),
        ({"rotation": 60.0}, "data.rotation=60.0: must be at most 45"),
    ],
)
def test_what_cannot_be(knobs, what):
    with pytest.raises(ConfigError) as error:
        Pages(**knobs).validate()
    assert str(error.value) == what
