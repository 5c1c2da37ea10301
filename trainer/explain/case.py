"""One decision of a model as a game of units that are present or absent, which all explainers and all checks play.

Units are columns of a table, tokens of a text or regions of a picture. An absent unit takes its values from the background. The
value of a coalition is the model's margin, the mean of it over the background: SHAP's interventional game (arXiv:1705.07874, 1908.08474).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from trainer.errors import ConfigError, RunError

ROWS = 4096  # inputs in one forward pass at most
ELEMENTS = 2**24  # and numbers in them
KEPT = 2**20  # numbers in the inputs of one pass of which the gradient is taken: every layer's outputs are kept for it


@dataclass(frozen=True)
class Attribution:
    """What an explainer says of one case."""

    values: Tensor
    """(units,) float64, on the CPU."""
    base: float | None = None
    """What the values start from, for explainers whose values add up to the margin."""
    deviation: Tensor | None = None
    """(units,) float64: standard errors of values that were sampled."""
    told: dict[str, float] = field(default_factory=dict)
    """Other figures, such as the R2 of a local model."""
    map: Tensor | None = None
    """(h, w) float64 on the CPU, of a method that is finer than regions or knows none: over all of a picture, at a resolution of its own."""


@dataclass(frozen=True)
class Case:
    """One decision."""

    margin: Callable[[Tensor], Tensor]
    """(n, *shape) to (n,): log-odds of the explained class, or the number that is predicted. Differentiable, where the model is."""
    inputs: Tensor
    """(*shape): the sample, as floating numbers: features, embeddings of tokens, pixels."""
    background: Tensor
    """(b, *shape): what stands for absent units."""
    unit_of: Tensor
    """(*shape) int64: the unit that each number of `inputs` belongs to; -1: to none, and it is always there."""
    units: tuple[str, ...]
    """Names."""
    seed: int = 0
    """Of the sample, the same however many ranks explain: what is sampled for it is sampled from this."""
    box: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom in pixels of what is decided on in a picture; None: on all of it."""
    module: nn.Module | None = None
    """What `margin` calls, once for each chunk of inputs, for methods that look into it."""

    def __len__(self) -> int:
        return len(self.units)

    def value(self, present: Tensor) -> Tensor:
        """The game: (n, units) bool to (n,) float64, the mean margin over the background with absent units replaced.

        Raises:
            RunError: the model's margin is NaN or infinite somewhere.
        """
        with torch.no_grad():
            rows = max(1, self.at_once() // len(self.background))
            return self.finite(torch.cat([self._value(chunk) for chunk in present.to(self.inputs.device).split(rows)]).cpu())

    def _value(self, present: Tensor) -> Tensor:
        shape = (len(present), *self.inputs.shape)
        kept = self.spread(present).reshape(len(present), 1, *self.inputs.shape)
        mixed = torch.where(kept, self.inputs, self.background.unsqueeze(0))
        return self.margin(mixed.flatten(0, 1)).to(torch.float64).reshape(shape[0], -1).mean(1)

    def at_once(self) -> int:
        """How many inputs one forward pass should have at most."""
        return max(1, min(ROWS, ELEMENTS // max(1, self.inputs.numel())))

    def differentiable_rows(self) -> int:
        """Inputs in one pass of which the gradient is taken, at most."""
        return max(1, min(ROWS, KEPT // max(1, self.inputs.numel())))

    def spread(self, values: Tensor) -> Tensor:
        """(..., units) to (..., *shape): of each number the value of its unit; True, or 1, where it belongs to none."""
        always = torch.ones_like(values[..., :1])
        return torch.cat([values, always], -1)[..., self.unit_of]  # -1 is the last

    def per_unit(self, values: Tensor) -> Tensor:
        """(..., *shape), what each number adds, to (..., units) float64, on the CPU: the sum of what is each unit's."""
        owner = (self.unit_of.flatten() % (len(self) + 1)).to(values.device)
        each = values.to(torch.float64).reshape(-1, len(owner))
        total = torch.zeros(len(each), len(self) + 1, dtype=torch.float64, device=values.device).index_add_(1, owner, each)
        return total[:, :-1].reshape(*values.shape[: values.dim() - self.unit_of.dim()], len(self)).cpu()

    def finite(self, found: Tensor) -> Tensor:
        """What the model gave for this case, as it is.

        Raises:
            RunError: some of it is NaN or infinite.
        """
        if not found.isfinite().all():
            worst = "NaN" if found.isnan().any() else "infinite"
            raise RunError(f"sample {self.seed}: the model's margin, or its gradient, is {worst} for a mixture of this sample and the background")
        return found

    def check_gradients(self, key: str) -> None:
        """Refuse a model that cannot be differentiated with respect to its inputs.

        Raises:
            ConfigError: `key`, such as "explain=integrated_gradients", and what can be taken instead.
        """
        with torch.enable_grad():
            rows = self.inputs.unsqueeze(0).detach().requires_grad_()
            try:
                found = torch.autograd.grad(self.margin(rows).sum(), rows, allow_unused=True)[0]
                problem = None if found is not None else "its output does not depend on its inputs by anything that has a derivative"
            except (RuntimeError, NotImplementedError) as error:  # no part of the output requires a gradient; a kernel has none
                problem = str(error).splitlines()[0]
        if problem is not None:
            raise ConfigError(f"{key}: needs gradients, which this model does not give ({problem}); take shap (kind=auto) or lime")

    def all_present(self) -> float:
        """The margin of the sample as it is."""
        with torch.no_grad():
            return float(self.finite(self.margin(self.inputs.unsqueeze(0)))[0])

    def none_present(self) -> float:
        """The value of the empty coalition."""
        return float(self.value(torch.zeros(1, len(self), dtype=torch.bool))[0])


def in_chunks(margin: Callable[[Tensor], Tensor], rows: int, inputs: Tensor) -> Tensor:
    """`margin` of (n, *shape), (n,), with at most `rows` of them in one pass: for models whose inner layers are much larger than `inputs`."""
    return torch.cat([margin(chunk) for chunk in inputs.split(max(1, rows))])


def log_odds(outputs: Tensor, chosen: int) -> Tensor:
    """(..., classes) logits to (...): the log of the odds of class `chosen`. Of one output, the number itself.

    The margin, not the probability: a softmax that saturates hides what adds to it.
    """
    if outputs.shape[-1] == 1:
        return outputs[..., 0]
    others = torch.cat([outputs[..., :chosen], outputs[..., chosen + 1 :]], -1)
    return outputs[..., chosen] - others.logsumexp(-1)
