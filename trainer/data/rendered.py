"""Pages that are rendered as they are read. Page i is a function of (seed, split, i), the knobs, and Pillow's version."""

from __future__ import annotations

import dataclasses
import math
import string
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.base import Sample, Samples
from trainer.data.cache import digest
from trainer.data.pages import Pages
from trainer.data.score_maps import score_maps
from trainer.errors import missing_extra

try:
    import PIL
    from PIL import Image, ImageDraw, ImageFilter, ImageFont
except ImportError as error:
    raise missing_extra("pillow", "detect", "data=pages") from error

FONTS = (
    *(f"DejaVu{family}.ttf" for family in ("Sans", "Sans-Bold", "Sans-Oblique", "SansMono", "SansMono-Bold", "Serif", "Serif-Bold", "Serif-Italic")),
    *("STIXGeneral.ttf", "STIXGeneralBol.ttf", "STIXGeneralItalic.ttf", "cmr10.ttf", "cmss10.ttf", "cmtt10.ttf"),
)
INK = 96  # of 255: from here on a pixel belongs to a word's box
GAP = 3  # pixels between words
TRIES = 20  # places for a word before it is left out


class RenderedPages(Samples):
    """Words in 14 fonts of Matplotlib, of all sizes, turned, on noisy backgrounds with lines and shapes among them."""

    def __init__(self, knobs: Pages, eval_split: bool) -> None:
        self._knobs, self._split = knobs, int(eval_split)
        self._count = knobs.eval_samples if eval_split else knobs.samples
        self._fonts = _font_files()
        self.spec: Mapping[str, Any] = {"channels": 3, "height": knobs.height, "width": knobs.width, "boxes": knobs.words}
        plain = {item.name: getattr(knobs, item.name) for item in dataclasses.fields(knobs)}
        self.fingerprint = digest(["pages", self._split, PIL.__version__, plain])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._count:
            raise IndexError(index)
        generator = np.random.default_rng([self._knobs.seed, self._split, index])
        page, boxes, words = draw_page(self._knobs, self._fonts, generator)
        padded = np.zeros((self._knobs.words, 4), np.float32)
        padded[: len(boxes)] = boxes
        return {"images": page.transpose(2, 0, 1), "boxes": padded, "labels": score_maps(words, self._knobs.height, self._knobs.width)}

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "source": f"rendered pages, seed {self._knobs.seed}", **self.spec}


def draw_page(knobs: Pages, fonts: Sequence[str], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """(height, width, 3) in [0, 1]; (words, 4) boxes of their ink; and for each word (characters, 4, 2), the corners of its characters."""
    size = (knobs.width, knobs.height)
    paper = generator.uniform(0, 1, 3)
    page = _background(paper, size, generator)
    _clutter(page, int(generator.integers(0, knobs.clutter + 1)), generator)
    taken = np.zeros((knobs.height, knobs.width), bool)
    boxes, words = [], []
    for _ in range(int(generator.integers(-(-knobs.words // 3), knobs.words + 1))):
        height = math.exp(generator.uniform(math.log(knobs.smallest), math.log(knobs.largest)))
        font = _font(fonts[int(generator.integers(len(fonts)))], round(height))
        mask, corners = _word(_letters(generator), font, generator.uniform(-knobs.rotation, knobs.rotation))
        ink = mask.point([255 * (value >= INK) for value in range(256)]).getbbox()
        if ink is None or mask.width >= knobs.width or mask.height >= knobs.height:
            continue
        for _ in range(TRIES):
            x, y = int(generator.integers(knobs.width - mask.width)), int(generator.integers(knobs.height - mask.height))
            box = np.array(ink) + np.array([x, y, x, y])
            around = taken[max(box[1] - GAP, 0) : box[3] + GAP, max(box[0] - GAP, 0) : box[2] + GAP]
            if not around.any():
                around[:] = True
                page.paste(_colour(_away_from(paper, generator)), (x, y), mask)
                boxes.append(box)
                words.append(corners + np.array([x, y]))
                break
    if generator.random() < 0.3:
        page = page.filter(ImageFilter.GaussianBlur(generator.uniform(0.3, 0.9)))
    values = np.asarray(page, np.float32) / 255
    values = values + generator.normal(0, generator.uniform(0, knobs.noise), values.shape)
    return np.clip(values, 0, 1).astype(np.float32), np.array(boxes, np.float32).reshape(-1, 4), words


def _word(text: str, font: ImageFont.FreeTypeFont, degrees: float) -> tuple[Image.Image, np.ndarray]:
    """A mask of the word, turned, and the corners of its characters in it. Each is set beside the one before, so that its place is known."""
    places, x = [], 0.0
    for letter in text:
        left, top, right, bottom = font.getbbox(letter, anchor="ls")
        places.append((x + left, top, x + right, bottom))
        x += font.getlength(letter)
    edges = np.array(places)
    corner, far = np.floor(edges.min(0)[:2]) - 1, np.ceil(edges.max(0)[2:]) + 1
    mask = Image.new("L", tuple(int(side) for side in far - corner))  # type: ignore[arg-type]
    draw, x = ImageDraw.Draw(mask), 0.0
    for letter in text:
        draw.text((x - corner[0], -corner[1]), letter, 255, font, anchor="ls")
        x += font.getlength(letter)
    corners = edges[:, [[0, 1], [2, 1], [2, 3], [0, 3]]] - corner
    turned = mask.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return turned, (corners - np.array(mask.size) / 2) @ turn.T + np.array(turned.size) / 2


def _letters(generator: np.random.Generator) -> str:
    letters = string.ascii_lowercase if generator.random() < 0.6 else string.ascii_uppercase if generator.random() < 0.5 else string.digits
    word = "".join(generator.choice(list(letters), size=int(generator.integers(2, 11))))
    return word.capitalize() if generator.random() < 0.3 else word


def _background(paper: np.ndarray, size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """The colour of the paper with soft stains."""
    side = int(generator.integers(2, 12))
    stains = generator.normal(0, generator.uniform(0, 0.12), (side, side, 1))
    small = np.clip((paper + stains) * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def _clutter(page: Image.Image, count: int, generator: np.random.Generator) -> None:
    draw = ImageDraw.Draw(page)
    for _ in range(count):
        x, y = (sorted(generator.uniform(-0.1, 1.1, 2) * side) for side in page.size)
        colour = _colour(generator.uniform(0, 1, 3))
        kind, thick = generator.integers(4), int(generator.integers(1, 4))
        if kind == 0:
            draw.line((x[0], y[1], x[1], y[0]) if generator.random() < 0.5 else (x[0], y[0], x[1], y[1]), colour, thick)
        elif kind == 1:
            draw.rectangle((x[0], y[0], x[1], y[1]), outline=colour, width=thick)
        elif kind == 2:
            draw.ellipse((x[0], y[0], x[1], y[1]), outline=colour, width=thick)
        else:
            side = generator.uniform(4, 24)
            draw.regular_polygon((x[0], y[0], side), int(generator.integers(3, 8)), int(generator.integers(360)), colour)


def _away_from(paper: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A colour that can be told from the paper's, sometimes barely."""
    while True:
        colour = generator.uniform(0, 1, 3)
        if abs(colour.mean() - paper.mean()) > 0.2:
            return colour


def _colour(values: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(255 * value) for value in values)
    return red, green, blue


@lru_cache(maxsize=512)
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)


def _font_files() -> list[str]:
    found = find_spec("matplotlib")  # for its fonts alone: it is not imported
    if found is None or found.origin is None:
        raise missing_extra("matplotlib", "detect", "data=pages (its fonts)")
    return [str(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / name) for name in FONTS]
