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
    groups: list[Any] = field(default_factory=list)
    """Columns of the file, features of the model or not, whose groups of people are compared. One that holds numbers is cut where you say:
    [sex, {age: [25, 60]}] compares people under 25, from 25 to under 60, and of 60 and over."""
    smallest_group: int = 30
    """A group with fewer people in the evaluation split, or fewer who pay back, is shown but not judged; nor are models with fewer defaults there."""
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
        self.columns()
        if find_spec("sklearn") is None:
            raise missing_extra("scikit-learn", "assess", "assess=credit")

    def columns(self) -> dict[str, list[float] | None]:
        """For each column of `groups` where it is cut; None: each of its values is a group.

        Raises:
            ConfigError: an entry is no column, a column is there twice, or edges do not rise.
        """
        found: dict[str, list[float] | None] = {}
        for entry in self.groups:
            cut = isinstance(entry, dict) and len(entry) == 1
            name, edges = next(iter(entry.items())) if cut else (entry, None)
            if not isinstance(name, str):
                raise ConfigError(f"assess.groups={self.groups}: {entry!r} is no column; give names, and where to cut numbers, such as [sex,{{age:[25,60]}}]")
            if name in found:
                raise ConfigError(f"assess.groups={self.groups}: names {name!r} twice")
            if cut and not _rising(edges):
                raise ConfigError(f"assess.groups: {name}: {edges}: must be rising numbers, such as [25,60]")
            found[name] = edges
        return found


def _rising(edges: Any) -> bool:
    """Whether they are at least one finite number, each above the one before."""
    if not isinstance(edges, list) or not edges or any(isinstance(edge, bool) or not isinstance(edge, (int, float)) for edge in edges):
        return False
    return all(map(math.isfinite, edges)) and all(low < high for low, high in pairwise(edges))
