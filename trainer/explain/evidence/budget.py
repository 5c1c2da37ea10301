"""What the evidence costs: inputs that go through the model for one sample, bounded beforehand and counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from torch import Tensor

from trainer.explain.case import Case

TRUTH_UNITS = 10
ORDERS, POINTS = 20, 20
RATIONALES, SHARES = 20, 5
RUNS = 5
NEARBY = 8
STAGES = 8


class Counter:
    """Counts the inputs that go through the margins of its cases."""

    def __init__(self) -> None:
        self.inputs = 0

    def of(self, case: Case) -> Case:
        """`case`, counted."""
        return dataclasses.replace(case, margin=partial(self._count, case.margin))

    def _count(self, margin: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        self.inputs += len(inputs)
        return margin(inputs)


def explanations(random: bool) -> int:
    """How often a sample is explained again, at most: for stability, sensitivity and sanity."""
    return 1 + (RUNS - 1 if random else 1) + NEARBY + STAGES


def coalitions(units: int, text: bool) -> int:
    """Of the game that are evaluated, each on all of the background: for truth, faithfulness and rationales."""
    truth = 2**units if units <= TRUTH_UNITS else 0
    return truth + 1 + (ORDERS + 2) * (min(units, POINTS) + 1) + (2 * SHARES * (RATIONALES + 1) if text else 0)


def most(units: int, background: int, inputs: int, random: bool, text: bool) -> int:
    """Inputs that go through the model for the evidence of one sample, at most, where explaining it once takes `inputs` of them."""
    return coalitions(units, text) * background + explanations(random) * inputs + 4  # the sample itself, for what is compared with it
