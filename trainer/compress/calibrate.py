"""Statistics of what goes into each layer, on samples of the training data, a block at a time.

Blocks are changed one after the other, each calibrated on what comes out of those before it as they are by then
(Frantar and Alistarh 2023, arXiv:2301.00774). Statistics are summed in fp64 over the ranks, which share the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.compress.subject import Subject

Call = tuple[tuple[Any, ...], dict[str, Any]]
Statistic = Callable[[Tensor], Tensor]
"""From the inputs of a layer in one pass, (elements, inputs) in fp32, to what is summed, in fp64."""

View = Callable[[nn.Module, Tensor], Tensor]
"""From a layer and its input to (elements, inputs)."""


def squares(x: Tensor) -> Tensor:
    """(inputs,): the sum of squares of each input."""
    return x.to(torch.float64).square().sum(0)


def extremes(x: Tensor) -> Tensor:
    """(2,): how far below and above 0 the inputs reach, for `largest`."""
    least, greatest = x.aminmax()
    return torch.stack([-least, greatest]).clamp(min=0).to(torch.float64)


def gram(x: Tensor) -> Tensor:
    """(inputs, inputs): X^T X."""
    wide = x.to(torch.float64)
    return wide.T @ wide


@torch.no_grad()
def block_by_block(
    subject: Subject,
    layers: Mapping[str, nn.Module],
    samples: int,
    statistic: Statistic,
    *,
    view: View | None = None,
    largest: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """For each block that has some of `layers`: full name to the sum of `statistic` over the inputs of that layer, as `view` gives them. A collective.

    `largest`: instead of the sum the largest, of what is at least 0.

    What is done to the block before the next one is asked for counts for what goes into the next.
    """
    engine = subject.engine
    engine.model.eval()
    names = {id(layer): name for name, layer in layers.items()}
    blocks = list(subject.model.blocks(engine.module)) or [engine.module]
    calls, weights = _inputs_of_first(subject, blocks[0], samples)
    for block in blocks:
        mine = {names[id(sub)]: sub for sub in block.modules() if id(sub) in names}
        if mine:
            yield _collect(block, mine, calls, weights, statistic, view or features, largest)
        if block is not blocks[-1]:
            calls = [((_first(block(*args, **kwargs)), *args[1:]), kwargs) for args, kwargs in calls]


def features(layer: nn.Module, x: Tensor) -> Tensor:
    """(elements, inputs): what each row of the weights of `layer`, laid out flat, is multiplied with, for its input `x`."""
    if not isinstance(layer, nn.Conv2d):
        return x.flatten(0, -2)
    assert not isinstance(layer.padding, str)
    patches = nn.functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
    return patches.transpose(1, 2).flatten(0, 1)


def channels(layer: nn.Module, x: Tensor) -> Tensor:
    """(elements, channels) of the input `x` of `layer`."""
    return x.flatten(2).transpose(1, 2).flatten(0, 1) if isinstance(layer, nn.Conv2d) else x.flatten(0, -2)


def _inputs_of_first(subject: Subject, block: nn.Module, samples: int) -> tuple[list[Call], list[int]]:
    """The arguments that `block` is called with in this rank's passes; and 1 for each, or 0 where it only keeps the ranks together."""
    calls: list[Call] = []
    turns = subject.turns(samples)
    handle = block.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    for places, _ in turns:
        subject.metrics(subject.samples.batch(places))
    handle.remove()
    return calls, [weight for _, weight in turns]


def _collect(
    block: nn.Module, layers: Mapping[str, nn.Module], calls: list[Call], weights: list[int], statistic: Statistic, view: View, largest: bool
) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    weight = 0

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            found = statistic(view(layers[name], args[0].detach())) * weight
            sums[name] = found if name not in sums else torch.maximum(sums[name], found) if largest else sums[name] + found

        return hook

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(watch(name)).remove)
        for (args, kwargs), weight in zip(calls, weights, strict=True):  # noqa: B007 -- the hooks read it
            block(*args, **kwargs)
    for name in sorted(sums):
        dist.all_reduce(sums[name], dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
    return sums


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
