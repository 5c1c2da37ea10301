"""`explain=gradcam`: where in a picture the last convolution sees what speaks for the decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainer.errors import ConfigError
from trainer.explain.base import Explainer, Kind

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer.explain.case import Attribution, Case


@dataclass(kw_only=True)
class GradCam(Explainer):
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) by captum: the channels of a layer, weighted by their mean gradients, where positive.

    Means over all of a picture would lose which of its boxes is explained: for a box channels are weighted place by place (HiResCAM;
    Draelos and Carin 2020, arXiv:2011.08891), at the bottleneck of the network (Seg-Grad-CAM; Vinogradova et al. 2020, arXiv:2002.11434).
    A unit's value is the mean over it of the map, scaled up to the picture.
    """

    name: ClassVar[str] = "gradcam"
    package: ClassVar[str | None] = "captum"
    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.image})
    layer: str | None = None
    """Full name of a layer with (channels, height, width). Null: the last convolution before the outputs, or block of them with a shortcut;
    for a box the last of the lowest resolution."""

    def check_module(self, module: nn.Module) -> None:
        from trainer.explain.convolutions import is_convolution

        if self.layer is None and not any(is_convolution(one) for one in module.modules()):
            kinds = dict.fromkeys(type(one).__name__ for one in module.modules() if not any(True for _ in one.children()))
            raise ConfigError(f"explain=gradcam: the model has no convolution (it is made of {', '.join(kinds)}); take another explainer")
        names = [name for name, _ in module.named_modules() if name]
        if self.layer is not None and self.layer not in names:
            raise ConfigError(f"explain.gradcam.layer={self.layer}: the model has no such layer; it has {', '.join(names[-8:])}")

    def needs_gradients(self) -> bool:
        return True

    def explain(self, case: Case, seed: int) -> Attribution:
        import torch
        import torch.nn.functional as F

        from trainer.explain.case import Attribution

        found = self._map(case)
        size = case.unit_of.shape[-2:]
        scaled = F.interpolate(found[None, None], size, mode="bilinear", align_corners=False).expand(1, *case.unit_of.shape)[0]
        means = case.per_unit(scaled) / case.per_unit(torch.ones_like(scaled))
        return Attribution(means, map=found.cpu())

    def _map(self, case: Case) -> Tensor:
        """(h, w) float64, of the layer's resolution."""
        import torch
        from captum.attr import LayerGradCam, LayerGradientXActivation

        from trainer.explain.convolutions import last_convolution

        assert case.module is not None
        inputs = case.inputs.unsqueeze(0)
        in_box = case.box is not None
        layer = case.module.get_submodule(self.layer) if self.layer else last_convolution(case.module, lambda: case.margin(inputs), in_box)
        try:
            found = (LayerGradientXActivation if in_box else LayerGradCam)(case.margin, layer).attribute(inputs)
        except (RuntimeError, AssertionError) as error:  # it is not called, or nothing that has a gradient comes of it
            raise ConfigError(f"explain.gradcam.layer={self.layer}: gives no picture that the outputs have a gradient of: {error}") from error
        if not isinstance(found, torch.Tensor) or found.ndim != 4:
            raise ConfigError(f"explain.gradcam.layer={self.layer}: gives no (channels, height, width); take a convolution")
        return found[0].sum(0).relu().detach().to(torch.float64)
