"""Pictures as cases: a unit is a superpixel, and what is decided is the class of the picture, or one box that a detector finds in it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.errors import ConfigError, missing_extra
from trainer.explain.case import Case, in_chunks, log_odds
from trainer.explain.decisions import Decisions
from trainer.models.picture import Finding

PIXELS = 2**19  # numbers in the pictures of one pass: the layers of a detector are a hundred times larger
COMPACTNESS = (10.0, 100.0, 1000.0)  # each is tried where one before finds far too few regions, as in noise: the last cuts squares
BLUR = 0.25  # standard deviation, as a share of the picture's shorter side


@dataclass(frozen=True)
class ImageDecisions(Decisions):
    """Decisions on a picture, or on the box `output` of a detector, by falling score; None: the surest. Inputs are pixels, (channels, height, width).

    What is absent is blurred (Fong and Vedaldi 2017, arXiv:1704.03296) so that no shape is left of it. A plain colour would put edges
    where there were none, and a detector of text finds those; and it would be no absence where the picture has that colour.
    """

    regions: int = 32
    """Superpixels of a picture, about."""

    def case(self, index: int, module: nn.Module | None = None) -> Case:
        image = self.batch(index)["images"].to(torch.float32)
        margin, told = self._decided(index, image)
        decider = self.module if module is None else module
        place = superpixels(image[0], self.regions)
        return Case(
            margin=partial(in_chunks, partial(self._margin, decider, margin), PIXELS // image.numel()),
            inputs=image[0],
            background=blurred(image),
            unit_of=torch.from_numpy(place).to(image.device).expand(image.shape[1:]),
            units=names(place),
            seed=index,
            box=told.get("box"),
            module=decider,
        )

    def shown(self, index: int) -> dict[str, Any]:
        """The `image` (a data URI) with its `height` and `width`, `names` and SVG paths of its `regions`, and what is decided:
        the `box` and its `score`, or the class that is `explained`, the one `predicted` (with its `probability`) and the `truth`."""
        from trainer.posttrain.seen import encoded

        batch = self.batch(index)
        image = batch["images"].to(torch.float32)
        _, told = self._decided(index, image)
        if "box" not in told:
            label = batch["labels"][0]
            told["truth"] = float(label) if label.is_floating_point() else self._named(int(label))
        colours = image[0].cpu() if image.shape[1] == 3 else image[0].mean(0, keepdim=True).expand(3, -1, -1).cpu()
        place = superpixels(image[0], self.regions)
        drawn = {"image": encoded(colours.clamp(0, 1)), "height": image.shape[2], "width": image.shape[3]}
        return {**drawn, "names": list(names(place)), "regions": outlines(place), **told}

    def describe(self) -> str:
        """What is explained, in a sentence's words."""
        if "boxes" in self.samples.spec:
            return f"score of {'the surest box' if not self.output else f'box {self.output} by falling score'} that is found"
        return f"log-odds of the class {'that the model predicts' if self.output is None else self._named(self.output)}"

    def _decided(self, index: int, image: Tensor) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
        """From outputs, (n, ...), to the margin, (n,); and what is decided, in plain data. Of the model itself, whatever decides in a case."""
        with torch.no_grad():
            outputs = self.model.outputs(self.module, {"images": image})
            found = self.model.findings(outputs)
        if found:
            one = self._box(found, index)
            return one.margin, {"box": one.box, "score": one.score}
        if outputs.ndim != 2:
            raise ConfigError(
                f"explain: {type(self.model).__name__} gives {tuple(outputs.shape[1:])} numbers for a picture; give it `findings` to explain them"
            )
        chosen = self.chosen(outputs[0])
        if outputs.shape[1] == 1:
            return partial(log_odds, chosen=chosen), {"explained": "the predicted number", "predicted": float(outputs[0, 0])}
        best = int(outputs[0].argmax())
        sure = float(outputs[0].to(torch.float64).softmax(-1)[best])
        return partial(log_odds, chosen=chosen), {"explained": self._named(chosen), "predicted": self._named(best), "probability": sure}

    def _box(self, found: list[Finding], index: int) -> Finding:
        number = self.output or 0
        if not 0 <= number < len(found):
            boxes = "1 box" if len(found) == 1 else f"{len(found)} boxes"
            raise ConfigError(f"posttrain.explain_output={number}: sample {index} has {boxes} to explain, from 0, the surest, on; null takes that")
        return found[number]

    def _margin(self, module: nn.Module, margin: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        return margin(self.model.outputs(module, {"images": images}))

    def _named(self, number: int) -> str:
        names = self.samples.describe().get("class_names")
        return str(names[number] if names else number)


def superpixels(image: Tensor, count: int) -> np.ndarray:
    """(height, width) int64, from 0: about `count` regions of like colour (SLIC; Achanta et al. 2012, TPAMI 34(11)) of (channels, height, width) in [0, 1].

    Raises:
        ConfigError: the picture has fewer pixels.
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise missing_extra("scikit-image", "explain", "explaining pictures") from error
    height, width = image.shape[1:]
    if height * width < count:
        raise ConfigError(f"posttrain.explain_regions={count}: pictures of {height} x {width} have {height * width} pixels; give at most so many")
    colours = image if len(image) == 3 else image.mean(0, keepdim=True).expand(3, -1, -1)  # so that grey too is measured in CIELAB
    pixels = colours.permute(1, 2, 0).cpu().numpy().astype(np.float64)
    for compactness in COMPACTNESS:
        found = slic(pixels, n_segments=count, compactness=compactness, start_label=0, channel_axis=-1)
        regions, place = np.unique(found, return_inverse=True)
        if len(regions) >= count / 2:
            break
    return place.reshape(height, width).astype(np.int64)


def names(place: np.ndarray) -> tuple[str, ...]:
    """Of each region of `place`, (height, width), its number from 1 and where its middle is."""
    found = []
    for number in range(int(place.max()) + 1):
        row, column = (int(3 * (where.mean() + 0.5) / side) for where, side in zip(np.nonzero(place == number), place.shape, strict=True))
        at = " ".join(word for word in (("top", "", "bottom")[row], ("left", "", "right")[column]) if word) or "middle"
        found.append(f"region {number + 1}, {at}")
    return tuple(found)


def blurred(images: Tensor) -> Tensor:
    """Of (n, channels, height, width) what is left when no shape can be made out."""
    try:
        from scipy.ndimage import gaussian_filter
    except ImportError as error:
        raise missing_extra("scipy", "explain", "explaining pictures") from error
    spread = BLUR * min(images.shape[2:])
    return torch.from_numpy(gaussian_filter(images.cpu().numpy(), (0, 0, spread, spread), mode="nearest")).to(images)


def outlines(place: np.ndarray) -> list[str]:
    """Of each region of `place`, (height, width), an SVG path: rectangles that cover it, in pixels."""
    paths = [""] * (int(place.max()) + 1)
    height = len(place)
    begun: dict[tuple[int, int, int], int] = {}  # a run of one region in the last row, and the row it is in since
    for row in range(height + 1):
        runs = set(_runs(place[row])) if row < height else set()
        for run in [run for run in begun if run not in runs]:
            region, left, right = run
            top = begun.pop(run)
            paths[region] += f"M{left} {top}h{right - left}v{row - top}H{left}z"
        for run in runs:
            begun.setdefault(run, row)
    return paths


def _runs(row: np.ndarray) -> list[tuple[int, int, int]]:
    """(region, left, right) of each run of equal numbers."""
    edges = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), len(row)]
    return [(int(row[left]), left, right) for left, right in itertools.pairwise(edges)]
