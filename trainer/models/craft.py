"""`model=craft`: a text detector that tells for each pixel whether it is in the middle of a character, and between two of one word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.assets import resolve_asset
from trainer.errors import ConfigError
from trainer.models.base import Model
from trainer.models.picture import Finding

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer.models.picture import Picture

WEIGHTS = "model.safetensors"
STRIDE = 16  # of the deepest features


@dataclass(kw_only=True)
class Craft(Model):
    """CRAFT (Baek et al. 2019, arXiv:1904.01941): VGG16 with batch normalisation and a U-net. Trained, its normalisations keep their statistics."""

    path: str | None = "craft"
    """A directory with model.safetensors of the published names, or what `python -m trainer.fetch` brought. Null: fresh weights."""
    channels: int = 64
    """Of the first convolution; all others have multiples of it. Published weights have 64."""
    text_threshold: float = 0.7
    """Region score that the best pixel of a box must have."""
    low_text: float = 0.4
    """Region score from which on a pixel belongs to text."""
    link_threshold: float = 0.4
    """Affinity score from which on a pixel links two characters."""
    grow: float = 1.0
    """By how much boxes are larger than what is found, as a share of the published growth, which is for boxes with a margin; 0.4 fits boxes of ink."""

    def validate(self) -> None:
        if self.channels < 4 or self.channels % 4:
            raise ConfigError(f"model.channels={self.channels}: must be a multiple of 4")
        for key in ("text_threshold", "low_text", "link_threshold"):
            if not 0 < getattr(self, key) < 1:
                raise ConfigError(f"model.{key}={getattr(self, key)}: must be between 0 and 1")
        if not 0 <= self.grow < 10:
            raise ConfigError(f"model.grow={self.grow}: must be at least 0 and below 10")
        if self.path is not None and self.channels != 64:
            raise ConfigError(f"model.channels={self.channels}: published weights have 64; give model.path=null for fresh ones")

    def identity(self) -> dict[str, Any]:
        return {key: value for key, value in super().identity().items() if key in ("_target_", "channels")}

    def check(self, spec: Mapping[str, Any]) -> None:
        if "boxes" not in spec:
            raise ConfigError(f"model=craft needs pictures with boxes, but the data has {', '.join(sorted(spec))}. Choose data=pages, or another model")
        for key in ("height", "width"):
            if spec[key] % STRIDE:
                raise ConfigError(f"data.{key}={spec[key]}: must be a multiple of {STRIDE} for model=craft")

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        from trainer.models.craft_module import CraftNet

        self.check(spec)
        return CraftNet(self.channels)

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Squared error of both maps, summed over the pixels that are valid."""
        return self._squares(self.outputs(module, batch), batch["labels"])

    def outputs(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """(batch, 2, height / 2, width / 2): region and affinity scores."""
        return module(batch["images"])

    def count(self, batch: Mapping[str, Tensor]) -> int:
        return int(self.valid(batch["labels"]).sum())

    def valid(self, labels: Tensor) -> Tensor:
        return labels >= 0  # those that are not have IGNORE

    def metrics(self, module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss, and the rows that `curves` makes average precision of."""
        from trainer.models.average_precision import rows

        maps = self.outputs(module, batch)
        return {"loss": self._squares(maps, batch["labels"]), "boxes": rows(self.detections(maps), batch["boxes"])}

    def curves(self, name: str, rows: Tensor, weights: Tensor) -> dict[str, Tensor]:
        from trainer.models.average_precision import average_precisions

        return average_precisions(rows, weights)

    def pictures(self, module: nn.Module, batch: Mapping[str, Tensor]) -> list[Picture]:
        from trainer.models.average_precision import judged
        from trainer.models.picture import Picture

        drawn = []
        for image, found, wanted in zip(batch["images"], self.detections(self.outputs(module, batch)), batch["boxes"], strict=True):
            boxes, truth, right = judged(found, wanted)
            drawn.append(Picture(image, truth, boxes, right[:, 0]))
        return drawn

    def findings(self, outputs: Tensor) -> list[Finding]:
        """The boxes; where there is none, the place that comes nearest to one."""
        from trainer.models.craft_boxes import best_place, inside

        (found,) = self.detections(outputs)
        if not len(found):
            found = best_place(outputs[0, 0])
        ordered = sorted(found.tolist(), key=lambda box: -box[4])
        return [Finding((left, top, right, bottom), score, inside(left, top, right, bottom)) for left, top, right, bottom, score in ordered]

    def detections(self, maps: Tensor) -> list[Tensor]:
        """For each picture (boxes, 5): left, top, right, bottom in pixels of the picture, and score."""
        from trainer.models.craft_boxes import boxes

        return [boxes(each, self.text_threshold, self.low_text, self.link_threshold, self.grow) for each in maps.detach().float().cpu().numpy()]

    def weights(self) -> Callable[[str], Tensor] | None:
        if self.path is None:
            return None
        from safetensors import safe_open

        place = Path(resolve_asset("model.path", self.path)) / WEIGHTS
        if not place.is_file():
            raise ConfigError(f"model.path={self.path}: is no directory with a {WEIGHTS}; get one with: python -m trainer.fetch craft")
        file = safe_open(place, "pt")
        known = set(file.keys())

        def read(name: str) -> Tensor:
            if name not in known:
                raise KeyError(name)
            return file.get_tensor(name)

        return read

    def flops(self, module: nn.Module, spec: Mapping[str, Any]) -> tuple[float, str]:
        """Per pixel of a map: 6 per weight and position at which a convolution applies it."""
        from trainer.models.craft_module import applications

        height, width = int(spec["height"]), int(spec["width"])
        total = 6.0 * sum(numel * times for numel, times in applications(module, height, width))
        return total / (2 * (height // 2) * (width // 2)), "6 x weights x positions / map pixels"

    def title(self) -> str:
        return "CRAFT"

    def _squares(self, maps: Tensor, labels: Tensor) -> Tensor:
        import torch

        wide = torch.promote_types(maps.dtype, torch.float32)
        return ((maps.to(wide) - labels.to(wide)).square() * self.valid(labels)).sum()
