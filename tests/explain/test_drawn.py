"""Words and pictures with what an explainer says of them: colours, values, and that a page can be read."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
import pytest

from tests.posttrain.test_pages import Checked
from trainer.explain import shades
from trainer.explain.drawn_image import overlay
from trainer.explain.drawn_text import heat_map
from trainer.report.style import STYLE

TEXT: dict[str, Any] = {
    "words": ["if", " a<b", "\n  & c", "\n"],
    "continues": True,
    "explained": ":",
    "predicted": ":",
    "probability": 0.875,
    "truth": " ",
}
PICTURE: dict[str, Any] = {
    "image": "data:image/png;base64,AAAA",
    "height": 2,
    "width": 3,
    "names": ["region 1, left", "region 2, right"],
    "regions": ["M0 0h1v2H0z", "M1 0h2v2H1z"],
    "explained": "cat",
    "predicted": "dog",
    "probability": 0.5,
    "truth": "cat",
}


def opacities(page: str, before: str) -> list[tuple[str, float]]:
    """(colour, opacity) of what follows `before`, in order."""
    kinds = {",".join(map(str, shades.FOR)): "red", ",".join(map(str, shades.AGAINST)): "blue"}
    return [(kinds[colour], float(opacity)) for colour, opacity in re.findall(rf"{before}rgba\((\d+,\d+,\d+),([\d.]+)\)", page)]


def test_words_have_the_colour_of_their_value():
    page = heat_map("one <text>", TEXT, [2.0, -1.0, 0.0, 0.5])
    Checked(page)
    most = shades.OVER_TEXT
    found = opacities(page, "background:")
    assert [colour for colour, _ in found][:2] == ["red", "blue"]
    assert [opacity for _, opacity in found] == pytest.approx([most, most / 2, 0, most / 4], abs=1e-3)
    assert re.findall('title="([^"]*)">([^<]*)</mark>', page) == [("+2", "if"), ("-1", "a&lt;b"), ("+0", "&amp; c"), ("+0.5", "⏎")]
    assert re.search(r"</mark> <mark[^>]*>a&lt;b</mark>\n  <mark[^>]*>&amp; c</mark>", page)  # white space stands beside the colour
    assert '<b title="the token that is explained">:</b>' in page
    assert "<h3>one &lt;text&gt;</h3>" in page
    assert "<figcaption>explained: “:” (87.5% sure), true: “␣”; most for it: “if” +2, “⏎” +0.5; most against: “a&lt;b” -1</figcaption>" in page
    assert "-2, against it</span>" in page


def test_values_that_were_sampled_tell_how_sure_they_are():
    page = heat_map("", {**TEXT, "continues": False}, [2.0, -1.0, 0.0, 0.5], [0.25, 0.5, 0.125, 1.0])
    assert re.findall('title="([^"]*)"', page) == ["+2 ± 0.25", "-1 ± 0.5", "+0 ± 0.12", "+0.5 ± 1"]
    assert "<b" not in page


def test_nothing_but_zeros_has_no_colour():
    page = heat_map("", TEXT, [0.0] * 4)
    assert {opacity for _, opacity in opacities(page, "background:")} == {0.0}
    assert "nothing speaks for it or against it" in page
    Checked(overlay("", PICTURE, [0.0, 0.0], heat=[[0.0]]))


def luminance(colour: np.ndarray) -> float:
    """WCAG 2.2, relative luminance, of (3,) in [0, 255]."""
    linear = np.where(colour / 255 <= 0.04045, colour / 255 / 12.92, ((colour / 255 + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def hexadecimal(text: str) -> np.ndarray:
    digits = text if len(text) == 6 else "".join(2 * digit for digit in text)
    return np.array([int(digits[place : place + 2], 16) for place in (0, 2, 4)])


@pytest.mark.parametrize("value", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_text_can_be_read_on_every_colour_on_light_and_dark_pages(value):
    pages = zip(re.findall(r"--card: #(\w+)", STYLE), re.findall(r"--text: #(\w+)", STYLE), strict=True)
    seen = 0
    for card, text in pages:
        numbers = [float(number) for number in re.findall(r"[\d.]+", shades.colour(value, 1.0, shades.OVER_TEXT))]
        ground = numbers[3] * np.array(numbers[:3]) + (1 - numbers[3]) * hexadecimal(card)
        low, high = sorted([luminance(ground), luminance(hexadecimal(text).astype(float))])
        assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG 2.2, level AA
        seen += 1
    assert seen == 2


def test_regions_have_the_colour_of_their_value_and_tell_it():
    page = overlay("a picture", PICTURE, [-1.0, 0.25], [0.5, 0.0])
    Checked(page)
    most = shades.OVER_PICTURE
    assert opacities(page, "fill:") == [("blue", pytest.approx(most)), ("red", pytest.approx(most / 4))]
    assert re.findall(r'd="([^"]*)"><title>([^<]*)</title>', page) == [
        ("M0 0h1v2H0z", "region 1, left: -1 ± 0.5"),
        ("M1 0h2v2H1z", "region 2, right: +0.25 ± 0"),
    ]
    assert 'href="data:image/png;base64,AAAA" width="3" height="2"' in page
    assert "<figcaption>explained: cat, predicted: dog (50.0% sure), true: cat; most for it: region 2, right +0.25; most against: region 1, left -1" in page
    assert 'class="box"' not in page


def test_a_map_lies_over_the_whole_picture():
    image = pytest.importorskip("PIL.Image")
    page = overlay("", PICTURE, [0.5, 1.0], heat=[[0.0, 1.0, 4.0, 2.0]])
    Checked(page)
    assert opacities(page, "fill:") == []
    (data,) = re.findall(r'<image href="data:image/png;base64,([^"]*)" width="3" height="2" preserveAspectRatio="none"/>', page)
    pixels = np.asarray(image.open(io.BytesIO(base64.b64decode(data))))
    assert pixels.shape == (1, 4, 4)
    assert (pixels[..., :3] == shades.FOR).all()
    assert pixels[0, :, 3].tolist() == [0, 51, 204, 102]
    assert '<span>0</span><i class="only"></i><span>+4, for it</span>' in page


def test_the_box_that_is_explained_is_drawn():
    shown = {key: PICTURE[key] for key in ("image", "height", "width", "names", "regions")} | {"box": (0.0, 0.5, 2.0, 1.5), "score": 0.75}
    page = overlay("", shown, [0.5, 1.0])
    Checked(page)
    assert '<path class="box" d="M0.0 0.5H2.0V1.5H0.0Z"/>' in page
    assert "a box of score 0.75; most for it: region 2" in page


def test_a_number_is_told_as_one():
    page = overlay("", {**PICTURE, "explained": "the predicted number", "predicted": 1.23456, "truth": 2.0}, [0.5, 1.0])
    assert "explained: the predicted number, predicted: 1.235 (50.0% sure), true: 2" in page
