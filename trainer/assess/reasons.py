"""Reason codes: why an applicant is refused, in words, from the attributions of an explanation.

What goes in is plain data, whoever explained: for each column how much its value adds to the log-odds of default (the margin), above 0
where it speaks against the applicant; what the applicant states; and what is usual, as `usual.usual` makes it of the training split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Reason(NamedTuple):
    """One column that speaks against an applicant."""

    column: str
    share: float
    """Of all that speaks against, from 0 to 1."""
    words: str


def reason_codes(attributions: Mapping[str, float], applicant: Mapping[str, Any], usual: Mapping[str, Mapping[str, Any]], most: int = 4) -> list[Reason]:
    """The `most` columns that speak most against an applicant, the worst first; none where nothing does.

    Args:
        attributions: for each column what it adds to the log-odds of default.
        applicant: for each column a number, a text, or None.
        usual: for each column what the function of that name says.
    """
    against = {name: value for name, value in attributions.items() if value > 0}
    total = math.fsum(against.values())
    worst = sorted(against, key=lambda name: -against[name])[:most]
    return [Reason(name, against[name] / total, in_words(name, applicant[name], usual[name])) for name in worst]


def in_words(column: str, value: Any, usual: Mapping[str, Any]) -> str:
    """Why the value of a column that speaks against an applicant may do so; without a full stop."""
    plain = column.replace("_", " ")
    if value is None:
        return f"the {plain} is not stated"
    if "median" not in usual:
        return _category(plain, str(value), usual)
    median, low, high = (number(usual[key]) for key in ("median", "low", "high"))
    if usual["low"] <= value <= usual["high"]:
        return f"the {plain}, {number(value)}, is not unusual (half of all are between {low} and {high}), and counts against this applicant with all the rest"
    return (
        f"the {plain}, {number(value)}, is {'higher' if value > usual['high'] else 'lower'} than usual (median {median}, half of all between {low} and {high})"
    )


def _category(plain: str, value: str, usual: Mapping[str, Any]) -> str:
    if value not in usual["people"]:
        return f"“{value}” as {plain}, which too few before stated to compare"
    people, share = usual["people"][value], usual["defaults"][value]
    return f"“{value}” as {plain}: of {people:,} such applicants {share:.1%} defaulted, of all {usual['all']:.1%}"


def number(value: float) -> str:
    """A number as people write it: 9,000, 36.5, 0.0123."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:,.4g}"
