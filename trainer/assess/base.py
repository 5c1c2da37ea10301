"""`assess=credit`: what is asked of a classifier of two classes that decides on people. Nothing here imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

from trainer.errors import ConfigError, missing_extra
from trainer.part import Part


@dataclass(kw_only=True)
class Assess(Part):
    """The neural model beside scikit-learn's boosting and logistic regression, a threshold by cost, and fairness by group.

    A default is what a refusal prevents: a loan that is not paid back, in other trades a claim or a customer who leaves.
    """

    default_class: str | None = None
    """The class of `data.target` that means a default. Null: the second in order."""
    cost_of_default: float = 1.0
    """Of an applicant who is accepted and defaults, in your units. Applicants who are rightly accepted or refused cost nothing."""
    cost_of_refusal: float = 1.0
    """Of an applicant who is refused and would have paid back, in the same units: what is not earned."""
    unit: str = ""
    """Of the costs, as the report writes it after them, such as EUR."""
    groups: list[str] = field(default_factory=list)
    """Columns of the file, features of the model or not, whose groups of people are compared."""
    edges: dict[str, Any] = field(default_factory=dict)
    """Where a column of `groups` that holds numbers is cut: {age: [25, 60]} makes under 25, 25 to under 60, and 60 and over."""
    smallest_group: int = 30
    """A group with fewer people in the evaluation split, or fewer who pay back, is shown but not judged."""
    largest_difference: float = 0.1
    """Between the shares of two groups that are accepted: a larger one, if it is no chance, is told as a failure."""
    refused: int = 3
    """Refused applicants that the report shows one by one."""
    reasons: int = 4
    """How many reasons are told of each, at most."""
    training_rows: int = 200_000
    """Of the training split, at even distances, that the two simple models learn from and thresholds are chosen on."""

    def validate(self) -> None:
        for key in ("cost_of_default", "cost_of_refusal"):
            if not 0 < getattr(self, key) < math.inf:
                raise ConfigError(f"assess.{key}={getattr(self, key)}: must be above 0")
        if not 0 < self.largest_difference < 1:
            raise ConfigError(f"assess.largest_difference={self.largest_difference}: must be above 0 and below 1; 0.1 is ten percentage points")
        for key, least in (("smallest_group", 2), ("refused", 0), ("reasons", 1), ("training_rows", 100)):
            if getattr(self, key) < least:
                raise ConfigError(f"assess.{key}={getattr(self, key)}: must be at least {least}")
        if len(set(self.groups)) < len(self.groups):
            raise ConfigError(f"assess.groups={self.groups}: names a column twice")
        for name, edges in self.edges.items():
            if name not in self.groups:
                raise ConfigError(f"assess.edges: {name!r} is not one of assess.groups={self.groups}")
            if not _rising(edges):
                raise ConfigError(f"assess.edges.{name}={edges}: must be rising numbers, such as [25,60]")
        if find_spec("sklearn") is None:
            raise missing_extra("scikit-learn", "assess", "assess=credit")


def _rising(edges: Any) -> bool:
    """Whether they are at least one finite number, each above the one before."""
    if not isinstance(edges, list) or not edges or any(isinstance(edge, bool) or not isinstance(edge, (int, float)) for edge in edges):
        return False
    return all(map(math.isfinite, edges)) and all(low < high for low, high in pairwise(edges))
