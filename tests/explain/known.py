"""Decisions of which the truth is known, and brute force over all coalitions, independent of `Case.value`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, permutations
from math import factorial

import numpy as np
import torch
from torch import Tensor, nn

from trainer.explain.case import Case

Function = Callable[[np.ndarray], np.ndarray]  # (n, features) to (n,)


def game(function: Function, sample: np.ndarray, background: np.ndarray, unit_of: Sequence[int]) -> Callable[[frozenset[int]], float]:
    """The mean of `function` over the background with the features of present units (and those of none) as in the sample."""
    owner = np.asarray(unit_of)

    def value(present: frozenset[int]) -> float:
        rows = background.copy()
        kept = np.isin(owner, [*present, -1])
        rows[:, kept] = sample[kept]
        return float(function(rows).mean())

    return value


def shapley(value: Callable[[frozenset[int]], float], units: int) -> np.ndarray:
    """By the definition (Shapley, 1953)."""
    found = np.zeros(units)
    for unit in range(units):
        others = [other for other in range(units) if other != unit]
        for size in range(units):
            weight = factorial(size) * factorial(units - size - 1) / factorial(units)
            for coalition in map(frozenset, combinations(others, size)):
                found[unit] += weight * (value(coalition | {unit}) - value(coalition))
    return found


def over_orders(value: Callable[[frozenset[int]], float], orders: Sequence[Sequence[int]]) -> np.ndarray:
    """What each unit adds when it comes, the mean over some orders of coming."""
    found = np.zeros(len(orders[0]))
    for order in orders:
        for at, unit in enumerate(order):
            found[unit] += value(frozenset(order[: at + 1])) - value(frozenset(order[:at]))
    return found / len(orders)


def every_order(units: int) -> list[tuple[int, ...]]:
    return list(permutations(range(units)))


def network(features: int) -> nn.Module:
    """A small one with interactions, in fp64."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(features, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    for parameter in net.parameters():
        parameter.data.mul_(2.5)
    return net


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def case(margin: Callable[[Tensor], Tensor], inputs: Tensor, background: Tensor, unit_of: Tensor | None = None, seed: int = 0) -> Case:
    """A unit for each number, unless told otherwise."""
    owner = torch.arange(inputs.numel()).reshape(inputs.shape) if unit_of is None else unit_of
    return Case(margin, inputs, background, owner, tuple(f"u{unit}" for unit in range(int(owner.max()) + 1)), seed)


def of_network(features: int = 6, rows: int = 9, seed: int = 0) -> tuple[Case, np.ndarray]:
    """The decision of a network on a row, and its Shapley values."""
    net, inputs, background = network(features), numbers(features, seed=seed + 1), numbers(rows, features, seed=seed + 2)
    made = case(lambda rows: net(rows)[:, 0], inputs, background, seed=seed)
    return made, shapley(game(as_function(made.margin), inputs.numpy(), background.numpy(), range(features)), features)


def as_function(margin: Callable[[Tensor], Tensor]) -> Function:
    def function(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return margin(torch.from_numpy(rows)).numpy()

    return function
