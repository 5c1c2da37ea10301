"""Images decoded once into arrays of bytes."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.arrays import chosen_for_eval
from trainer.data.progress import progress
from trainer.errors import ConfigError, missing_extra

_AT_ONCE = 256  # images decoded before they are written: memory does not grow with their number


def write_digits(place: Path, eval_fraction: float, seed: int) -> dict[str, Any]:
    """scikit-learn's copy of the UCI handwritten digits (Alpaydin and Kaynak 1998), grey values 0 to 16."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing_extra("scikit-learn", "images", "data.path=null (the embedded digits)") from error
    images, labels = load_digits(return_X_y=True)
    rows = zip(images.astype(np.uint8).reshape(-1, 1, 8, 8), labels, strict=True)
    return {**_write(place, rows, eval_fraction, seed), "shape": [1, 8, 8], "classes": [str(digit) for digit in range(10)], "white": 16}


def write_folder(
    place: Path,
    classes: dict[str, list[Path]],
    channels: int,
    resize: tuple[int, int] | None,
    eval_fraction: float,
    seed: int,
    threads: int,
) -> dict[str, Any]:
    """Decode the files of each class.

    Raises:
        ConfigError: a file that is no image, or not of the first one's size.
    """
    files = [(path, label) for label, paths in enumerate(classes.values()) for path in paths]
    first = files[0][0]
    shape = _decode(first, channels, resize).shape

    def rows() -> Iterator[tuple[np.ndarray, int]]:
        with progress("decoding", sum(path.stat().st_size for path, _ in files)) as advance, ThreadPoolExecutor(threads) as pool:
            for chunk in (files[i : i + _AT_ONCE] for i in range(0, len(files), _AT_ONCE)):
                images = pool.map(_decode, [path for path, _ in chunk], itertools.repeat(channels), itertools.repeat(resize))
                for (path, label), image in zip(chunk, images, strict=True):
                    if image.shape != shape:
                        sizes = f"{image.shape[1]} x {image.shape[2]}, and {first} {shape[1]} x {shape[2]}"
                        raise ConfigError(f"{path}: is {sizes}; set data.resize=[height,width] for images of different sizes")
                    yield image, label
                    advance(path.stat().st_size)

    return {**_write(place, rows(), eval_fraction, seed), "shape": list(shape), "classes": list(classes), "white": 255}


def _decode(path: Path, channels: int, resize: Sequence[int] | None) -> np.ndarray:
    """(channels, height, width), 0 to 255."""
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("pillow", "images", "data.path (a folder of images)") from error
    try:
        with Image.open(path) as image:
            converted = image.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's errors for broken files
        raise ConfigError(f"{path}: cannot be read as an image: {error}") from error
    if resize is not None:
        converted = converted.resize((resize[1], resize[0]), Image.Resampling.BILINEAR)
    return np.asarray(converted).reshape(converted.height, converted.width, channels).transpose(2, 0, 1)


def _write(place: Path, rows: Iterable[tuple[np.ndarray, int]], eval_fraction: float, seed: int) -> dict[str, Any]:
    checksum = hashlib.sha256()
    paths = {(split, kind): place / f"{split}.{kind}" for split in ("train", "eval") for kind in ("images", "labels")}
    files = {key: path.open("wb") for key, path in paths.items()}
    for number, (image, label) in enumerate(rows):
        split = "eval" if chosen_for_eval(number, 1, seed, eval_fraction)[0] else "train"
        for kind, data in (("images", image.tobytes()), ("labels", np.int64(label).astype("<i8").tobytes())):
            files[split, kind].write(data)
            checksum.update(data)
        checksum.update(split.encode())
    for file in files.values():
        file.close()
    return {"files": {path.name: path.stat().st_size for path in paths.values()}, "sha256": checksum.hexdigest()}
