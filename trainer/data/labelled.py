"""One's own pictures with boxes, in COCO's format (https://cocodataset.org/#format-data) or Pascal VOC's (one .xml file a picture)."""

from __future__ import annotations

import itertools
import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.data.arrays import chosen_for_eval
from trainer.data.base import IGNORE, Sample, Samples
from trainer.data.cache import digest, unreadable
from trainer.data.pages import Pages
from trainer.data.score_maps import SCALE, score_maps
from trainer.errors import ConfigError, missing_extra

ASPECT = 0.6  # width of a character as a share of its height, for boxes that tell of no characters


class Picture(NamedTuple):
    """A picture and its boxes, (boxes, 4): left, top, right, bottom in its own pixels."""

    path: Path
    boxes: np.ndarray


class LabelledPages(Samples):
    """Pictures scaled to fit into (height, width), at the top left; what is beside them is grey, and not counted in the loss."""

    def __init__(self, knobs: Pages, split: str) -> None:
        assert knobs.path is not None
        pictures = read(Path(knobs.path))
        for_eval = chosen_for_eval(0, len(pictures), knobs.seed, knobs.eval_fraction)
        self._pictures = [picture for picture, mine in zip(pictures, for_eval == (split == "eval"), strict=True) if mine]
        if not self._pictures:
            raise ConfigError(f"data.eval_fraction={knobs.eval_fraction}: the {split} split of {knobs.path} has no picture")
        self._size, self._source = (knobs.height, knobs.width), knobs.path
        self._most = max(len(picture.boxes) for picture in pictures)
        self.spec: Mapping[str, Any] = {"channels": 3, "height": knobs.height, "width": knobs.width, "boxes": self._most}
        self.fingerprint = digest(["labelled", self._size, [[each.path.name, _bytes(each.path), each.boxes.tolist()] for each in self._pictures]])

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Sample:
        picture = self._pictures[index]
        height, width = self._size
        values, scale = _fitted(picture.path, height, width)
        page = np.full((height, width, 3), 0.5, np.float32)
        page[: values.shape[0], : values.shape[1]] = values
        boxes = np.zeros((self._most, 4), np.float32)
        boxes[: len(picture.boxes)] = picture.boxes * scale
        labels = score_maps([characters(box) for box in picture.boxes * scale], height, width)
        labels[:, -(-values.shape[0] // SCALE) :] = IGNORE
        labels[:, :, -(-values.shape[1] // SCALE) :] = IGNORE
        return {"images": page.transpose(2, 0, 1), "boxes": boxes, "labels": labels}

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "source": self._source, **self.spec}


def characters(box: np.ndarray) -> np.ndarray:
    """(characters, 4, 2): the corners of as many equal parts of a box as characters have place in it."""
    left, top, right, bottom = box
    count = max(1, round((right - left) / (ASPECT * (bottom - top))))
    edges = np.linspace(left, right, count + 1)
    return np.array([[(a, top), (b, top), (b, bottom), (a, bottom)] for a, b in itertools.pairwise(edges)])


def read(path: Path) -> list[Picture]:
    """The pictures of a COCO file or of a directory of VOC files, in order of their names.

    Raises:
        ConfigError: there is none, or a file that cannot be used; names it.
    """
    try:
        pictures = [_voc(file) for file in sorted(path.glob("*.xml"))] if path.is_dir() else _coco(path)
    except OSError as error:
        raise unreadable(path, error) from error
    if not pictures:
        raise ConfigError(f"data.path={path}: has no picture; give a COCO .json file, or a directory of Pascal VOC .xml files")
    for picture in pictures:
        if not picture.path.is_file():
            raise ConfigError(f"data.path={path}: names the picture {picture.path}, which is not there")
        bad = picture.boxes[(picture.boxes[:, 2:] <= picture.boxes[:, :2]).any(1) | ~np.isfinite(picture.boxes).all(1)]
        if len(bad):
            raise ConfigError(f"data.path={path}: {picture.path.name} has a box without area: {bad[0].tolist()}")
    return sorted(pictures, key=lambda picture: picture.path.name)


def _coco(path: Path) -> list[Picture]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        boxes: dict[Any, list[list[float]]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            x, y, width, height = (float(value) for value in annotation["bbox"])
            if not annotation.get("iscrowd"):
                boxes[annotation["image_id"]].append([x, y, x + width, y + height])
        return [Picture(path.parent / image["file_name"], _array(boxes[image["id"]])) for image in content["images"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"data.path={path}: is not COCO's format: {type(error).__name__} {error}; it needs images and annotations with bbox") from error


def _voc(path: Path) -> Picture:
    try:
        root = ElementTree.parse(path).getroot()
        found = [[float(each.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")] for each in root.findall("object")]
    except (ValueError, ElementTree.ParseError) as error:
        raise ConfigError(f"data.path: {path}: is not Pascal VOC's format: {error}") from error
    name = root.findtext("filename")
    if not name:
        raise ConfigError(f"data.path: {path}: is not Pascal VOC's format: it has no filename")
    boxes = _array(found)
    boxes[:, :2] -= 1  # pixels are counted from 1 there, and the last is in the box
    return Picture(path.parent / name, boxes)


def _array(boxes: list[list[float]]) -> np.ndarray:
    return np.array(boxes, np.float32).reshape(-1, 4)


def _bytes(path: Path) -> int:
    return path.stat().st_size


def _fitted(path: Path, height: int, width: int) -> tuple[np.ndarray, float]:
    """(rows, columns, 3) in [0, 1], and the scale."""
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("pillow", "detect", "data.path (pictures)") from error
    try:
        with Image.open(path) as image:
            scale = min(height / image.height, width / image.width)
            size = (max(1, math.floor(image.width * scale)), max(1, math.floor(image.height * scale)))
            return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR), np.float32) / 255, scale
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path}: cannot be read as an image: {error}") from error
