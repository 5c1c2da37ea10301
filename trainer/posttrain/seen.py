"""What a model finds in a few samples, before and after compression, as plain data for the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.data.base import Samples
from trainer.errors import missing_extra
from trainer.loader import to_device
from trainer.models.base import Model
from trainer.models.picture import Picture
from trainer.strategies.engine import Engine

SMALL = 64  # pixels of a side
QUALITY = 85  # of JPEG: noise, which pages are full of, would make PNG five times as large


@torch.no_grad()
def look(engine: Engine, model: Model, samples: Samples) -> list[Picture]:
    """What `engine`'s model finds in all of `samples`. A collective."""
    engine.model.eval()
    batches = (to_device(samples.batch([number]), engine.device) for number in range(len(samples)))
    return [picture for batch in batches for picture in model.pictures(engine.model, batch)]


def beside(before: Sequence[Picture], after: Sequence[Picture]) -> list[dict[str, Any]]:
    """Each picture with the true boxes, and those found before and after: left, top, right, bottom, score, whether it is right."""
    return [
        {
            "image": encoded(one.image),
            "height": one.image.shape[1],
            "width": one.image.shape[2],
            "wanted": one.wanted.tolist(),
            "before": _boxes(one),
            "after": _boxes(other),
        }
        for one, other in zip(before, after, strict=True)
    ]


def _boxes(picture: Picture) -> list[list[float | bool]]:
    return [[*box, right] for box, right in zip(picture.found.tolist(), picture.right.tolist(), strict=True)]


def encoded(image: Tensor) -> str:
    """A JPEG of (3, height, width) in [0, 1], as a data URI; of a small picture a PNG, as JPEG would blur its few pixels."""
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("pillow", "detect", "pictures in the report") from error
    file = io.BytesIO()
    form = "PNG" if max(image.shape[1:]) <= SMALL else "JPEG"
    Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()).save(file, form, quality=QUALITY)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
