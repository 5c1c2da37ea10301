"""`data=images`: scikit-learn's digits, or a folder of class folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data.cache import cached, digest, file_stamp, usable_cpus
from trainer.data.reduce import Reducible
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.data.base import Samples

FORMAT = 1  # of the files in the cache
SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(kw_only=True)
class Images(Reducible):
    """Images (C, H, W) in [0, 1] with classes, decoded once into a memory-mapped array."""

    path: str | None = None
    """A folder with a folder of PNG or JPEG files per class. Null: the 1,797 handwritten digits (1 x 8 x 8) inside scikit-learn."""
    channels: int = 3
    """For `path`: 3 for colour, 1 for grey."""
    resize: tuple[int, int] | None = None
    """For `path`: [height, width] that each image is scaled to. Null: they are all of one size."""
    eval_fraction: float = 0.2
    """The share of images, chosen by a stable hash of their number, that makes the eval split."""
    seed: int = 0
    """Of that hash."""

    def validate(self) -> None:
        super().validate()
        if not 0 < self.eval_fraction < 1:
            raise ConfigError(f"data.eval_fraction={self.eval_fraction}: must be above 0 and below 1")
        if self.channels not in (1, 3):
            raise ConfigError(f"data.channels={self.channels}: must be 1 (grey) or 3 (colour)")
        if self.resize is not None and (len(self.resize) != 2 or min(self.resize) < 1):
            raise ConfigError(f"data.resize={list(self.resize)}: must be a height and a width of at least 1")
        if self.path is None and (self.resize is not None or self.channels != 3):
            raise ConfigError("data.channels, data.resize: belong to data.path, which is not given (the digits are 1 x 8 x 8)")

    def open_whole(self, split: str) -> Samples:
        from trainer.data import decoding
        from trainer.data.arrays import ArraySamples, map_rows

        if self.path is None:
            key = digest([FORMAT, "digits", self.eval_fraction, self.seed])
            place, index = cached("images", key, lambda place: decoding.write_digits(place, self.eval_fraction, self.seed))
        else:
            classes = list_classes(self.path)
            stamps = [[name, [file_stamp(path) for path in paths]] for name, paths in classes.items()]
            key = digest([FORMAT, stamps, self.channels, self.resize, self.eval_fraction, self.seed])
            place, index = cached("images", key, lambda place: self._decode(place, classes))
        rows = map_rows(place / f"{split}.images", "u1", index["shape"])
        labels = map_rows(place / f"{split}.labels", "<i8", ())
        if not len(labels):
            raise ConfigError(f"data.eval_fraction={self.eval_fraction}: the {split} split of {self.path} has no image")
        channels, height, width = index["shape"]
        spec = {"channels": channels, "height": height, "width": width, "classes": len(index["classes"])}
        facts = {"source": self.path or "the digits of scikit-learn", "class_names": index["classes"]}
        return ArraySamples("images", rows, labels, spec, digest([split, index["sha256"], spec, index["white"]]), facts, 1 / index["white"])

    def _decode(self, place: Path, classes: dict[str, list[Path]]) -> dict[str, Any]:
        from trainer.data.decoding import write_folder

        return write_folder(place, classes, self.channels, self.resize, self.eval_fraction, self.seed, usable_cpus())


def list_classes(path: str) -> dict[str, list[Path]]:
    """The image files of each class folder in `path`, all in order of names.

    Raises:
        ConfigError: there is no such folder, or one that holds nothing.
    """
    root = Path(path)
    if not root.is_dir():
        raise ConfigError(f"data.path={path}: there is no such directory")
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
    if not folders:
        raise ConfigError(f"data.path={path}: has no folder; each class is a folder of images")
    classes = {folder.name: sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES) for folder in folders}
    for name, files in classes.items():
        if not files:
            raise ConfigError(f"data.path={path}: the class folder {name!r} has no {', '.join(SUFFIXES)} file")
    return classes
