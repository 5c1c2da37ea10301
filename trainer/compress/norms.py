"""Normalisations by running statistics, corrected for what pruning has changed before them (after Li et al. 2020, arXiv:2007.02491).

The statistics are of the data that the model was trained on, which may not be there. So they are not measured anew: they are shifted and
scaled as those of the same calibration batches are, from before to after.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.compress.subject import Subject

LEAST = 1e-4  # of the running variance: a channel that calibration data hardly moves says nothing of a scale
Moments = dict[str, tuple[Tensor, Tensor]]
"""Full name of a normalisation to mean and variance of its input in one batch, (channels,) each."""


def running(module: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The normalisations of `module` that have running statistics."""
    return {name: sub for name, sub in module.named_modules() if isinstance(sub, nn.BatchNorm2d) and sub.running_mean is not None}


def moments(subject: Subject, samples: int) -> list[Moments]:
    """Of this rank's calibration batches, as the model is now. A collective."""
    found: list[Moments] = []

    def see(_: int, name: str, norm: nn.BatchNorm2d, now: tuple[Tensor, Tensor]) -> None:
        found[-1][name] = now

    _pass(subject, samples, see, lambda: found.append({}))
    return found


def correct(subject: Subject, before: list[Moments], samples: int) -> None:
    """Correct the running statistics for what has changed since `before`, each layer after those before it. A collective."""
    norms = running(subject.engine.module)
    kept = {name: (norm.running_mean.clone(), norm.running_var.clone()) for name, norm in norms.items()}  # type: ignore[union-attr]
    sums = {name: torch.zeros(4, norm.num_features, dtype=torch.float64, device=subject.engine.device) for name, norm in norms.items()}
    weights = [weight for _, weight in subject.turns(samples)]

    def see(number: int, name: str, norm: nn.BatchNorm2d, now: tuple[Tensor, Tensor]) -> None:
        """Let this batch pass as it would if it alone said what has changed."""
        then = before[number][name]
        sums[name] += weights[number] * torch.stack([*then, *now]).to(torch.float64)
        _set(norm, kept[name], then, now)

    _pass(subject, samples, see, lambda: None)
    count = torch.tensor(float(sum(weights)), dtype=torch.float64, device=subject.engine.device)
    dist.all_reduce(count)
    for name in sorted(norms):
        dist.all_reduce(sums[name])
        averages = sums[name] / count
        _set(norms[name], kept[name], (averages[0], averages[1]), (averages[2], averages[3]))


def _set(norm: nn.BatchNorm2d, kept: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor], now: tuple[Tensor, Tensor]) -> None:
    """Statistics with which an input of the moments `now` is normalised as one of the moments `then` is with those `kept`."""
    mean, variance = kept
    ratio = (now[1] + LEAST * variance) / (then[1] + LEAST * variance)
    norm.running_mean.copy_(now[0] - (then[0] - mean) * ratio.sqrt())  # type: ignore[union-attr]
    norm.running_var.copy_(variance * ratio)  # type: ignore[union-attr]


def _pass(subject: Subject, samples: int, see: Callable[[int, str, nn.BatchNorm2d, tuple[Tensor, Tensor]], None], begin: Callable[[], None]) -> None:
    number = -1

    def hook(name: str) -> Callable[[nn.BatchNorm2d, tuple[Tensor]], None]:
        def look(norm: nn.BatchNorm2d, args: tuple[Tensor]) -> None:
            variance, mean = torch.var_mean(args[0].float(), dim=(0, 2, 3), correction=0)
            see(number, name, norm, (mean, variance))

        return look

    subject.engine.model.eval()
    with ExitStack() as stack:
        for name, norm in running(subject.engine.module).items():
            stack.callback(norm.register_forward_pre_hook(hook(name)).remove)  # type: ignore[arg-type]
        for number, (places, _) in enumerate(subject.turns(samples)):  # noqa: B007 -- the hooks read it
            begin()
            subject.metrics(subject.samples.batch(places))
