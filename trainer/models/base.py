"""What a model is to the trainer: how to build it, and a loss that is a sum over samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.data.base import IGNORE
from trainer.errors import ConfigError
from trainer.part import Part

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer.data.base import Samples
    from trainer.models.picture import Finding, Picture


@dataclass(frozen=True)
class HuggingFaceForm:
    """How a model is written so that transformers reads it."""

    config: dict[str, Any]
    """The content of config.json."""
    rename: Callable[[str], str]
    """From the canonical name of a parameter to its name there."""


@dataclass(kw_only=True)
class Model(Part):
    """A model. `build` gives a plain module; the strategy materialises and distributes it."""

    def check(self, spec: Mapping[str, Any]) -> None:
        """Raise `ConfigError`, naming the key, where this model does not fit data of this `spec` (see `Samples.spec`).

        Called before any process starts, and without torch; what can only be found out later, `build` says.
        """

    @abstractmethod
    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        """The module for data of this `spec`, which `check` has been called with.

        It is called on the meta device: no memory is taken. Every submodule that owns parameters
        or buffers should have `reset_parameters()` (as PyTorch's own layers do); if one has not,
        the whole module is built on the CPU of each rank instead.

        Raises:
            ConfigError: this model does not fit the data, naming the key.
        """

    def blocks(self, module: nn.Module) -> Sequence[nn.Module]:
        """The repeated layers, in order: units of sharding, checkpointing and compilation."""
        return []

    def begin_step(self, module: nn.Module, done: float) -> None:
        """Told before each training step, of a run of which the share `done`, from 0 to 1, is over when that step is."""

    @abstractmethod
    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss summed over the valid elements of `batch` (a scalar; never a mean)."""

    def outputs(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """What the loss compares with the labels: (..., classes) logits for labels of (...), or values of their shape. For distillation."""
        raise ConfigError(f"{type(self).__name__}: has no `outputs` to learn from a teacher with; give it that method")

    def count(self, batch: Mapping[str, Tensor]) -> int:
        """How many valid elements `loss` sums over in `batch` (CPU tensors, called by the loader)."""
        labels = batch["labels"]
        return labels.shape[0] if labels.is_floating_point() else int((labels != IGNORE).sum())

    def valid(self, labels: Tensor) -> Tensor:
        """Of the shape of `labels`, which of them the loss counts."""
        return (labels != IGNORE) | labels.is_floating_point()

    def metrics(self, module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over the valid elements of `batch` for evaluation; each is divided by the count.

        An entry of two dimensions, (any number of rows, columns), is no sum: it is what `curves` takes.
        """
        return {"loss": self.loss(module, batch)}

    def curves(self, name: str, rows: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Metrics that are no sums, such as average precision, each (resamples,), from the rows of all batches that `metrics` gave as `name`.

        rows: (rows, columns) fp64 on the CPU; weights: (resamples, rows) fp64, how often each row counts.
        """
        raise ConfigError(f"{type(self).__name__}: its `metrics` gives rows as {name!r}, and it has no `curves` to make metrics of them; give it that method")

    def following(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Metrics that are functions of the means of others, such as perplexity. Each is (resamples,), as the `means` are, fp64 on the CPU."""
        return {}

    def pictures(self, module: nn.Module, batch: Mapping[str, Tensor]) -> list[Picture]:
        """What `module` finds in each sample of `batch`, to be looked at in a report; none: it is nothing that can be drawn."""
        return []

    def findings(self, outputs: Tensor) -> list[Finding]:
        """What `outputs` of one sample, (1, ...), find in a picture, the surest first, each to be explained alone; none: one decision on all of it."""
        return []

    def initialise(self, module: nn.Module, leaf: nn.Module) -> None:
        """Set the initial values of the parameters and buffers that `leaf` itself owns, on the CPU.

        `module` is the whole model that `leaf` is part of. Called with PyTorch's generator seeded
        from (seed, name of the leaf), so the values are the same under every strategy.
        """
        leaf.reset_parameters()  # type: ignore[operator]

    def weights(self) -> Callable[[str], Tensor] | None:
        """A function from parameter or buffer name to its pre-trained value, or None for fresh ones."""
        return None

    def decays(self, name: str, parameter: Tensor, owner: nn.Module) -> bool:
        """Whether weight decay applies to this parameter: not to norms, biases and embeddings."""
        from torch import nn

        return parameter.ndim >= 2 and not isinstance(owner, nn.Embedding)

    def frozen(self, name: str) -> bool:
        """Whether the parameter of this canonical name is kept as it is."""
        return False

    def identity(self) -> dict[str, Any]:
        """What decides what the model computes from the values of its parameters, as plain values: a checkpoint of another identity does not fit.

        Default: the class and every knob. A model leaves out those with which it is still the same model, such as a dropout.
        """
        from trainer.config import to_plain

        return to_plain(self)

    def flops(self, module: nn.Module, spec: Mapping[str, Any]) -> tuple[float, str]:
        """Floating-point operations of forward and backward per counted element, and the formula.

        Default: 6 per parameter (2 forward, 4 backward; Kaplan et al. 2020, arXiv:2001.08361).
        `module` may be on the meta device.
        """
        numel = sum(p.numel() for p in module.parameters())
        return 6.0 * numel, "6 x parameters"

    def hugging_face(self, spec: Mapping[str, Any]) -> HuggingFaceForm | None:
        """This model, trained on data of `spec`, as one that `AutoModelForCausalLM` loads; None: it has no such form."""
        return None

    def title(self) -> str:
        """What the model is, in words, for people."""
        return type(self).__name__

    def sample(self, module: nn.Module, samples: Samples, device: Any) -> str | None:
        """A short text the trained model generates, or None. Called on all ranks with equal inputs."""
        return None
