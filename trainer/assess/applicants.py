"""The refused applicants that a report shows, with the reasons that an explanation gives. Nothing here imports torch.

An explanation is a file RUN_DIR/explain/NAME.jsonl with one object a line for each explained sample of the evaluation split: "sample", its
number; "margin", the log-odds that were explained; "units", the columns; and "values", what each adds to those log-odds. Beside it,
explain.json says under "explainers", NAME, "checks" which of its checks, each with a "name", has "passed", or not (false).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trainer.assess.reasons import Reason, reason_codes
from trainer.assess.told import ASSESSED, DECISIONS

EXPLAINED, CHECKED = "explain", "explain.json"
SAME = 1e-3  # log-odds: of one decision, computed in batches of other sizes


@dataclass(frozen=True)
class Applicant:
    """One who is refused."""

    sample: int
    row: int
    """Of the file, from 1."""
    margin: float
    probability: float
    defaulted: bool
    stated: Mapping[str, Any]
    """What the file holds in each column: a number, a text, or None."""
    explained: bool = False
    reasons: Sequence[Reason] = field(default_factory=list)


@dataclass(frozen=True)
class Told:
    """What the report shows of them."""

    shown: list[Applicant]
    note: str
    warning: str = ""
    by: str = ""
    """The explainer that has the reasons."""


def told(run_dir: Path, found: Mapping[str, Any]) -> Told:
    """`assess.refused` of those who are refused in `run_dir`, from the surest refusal to the narrowest, with reasons where they are explained."""
    knobs = found["knobs"]
    refused = list(_refused(run_dir / ASSESSED / DECISIONS, found["usual"]))
    if not refused or not knobs["refused"]:
        return Told([], "")
    name, signed = _explained(run_dir / EXPLAINED, {one.sample: one.margin for one in refused})
    if not signed:
        return Told(_some(refused, knobs["refused"]), "Why is not known: no explanation of these decisions is in the run directory.")
    shown = _some([one for one in refused if one.sample in signed], knobs["refused"])
    given = [replace(one, explained=True, reasons=reason_codes(signed[one.sample], one.stated, found["usual"], knobs["reasons"])) for one in shown]
    note = f"Reasons are what {name} says of the model's log-odds of default. They say what moved this model, not what caused a default."
    failed = _failed(run_dir / EXPLAINED, name)
    return Told(given, note, f"Do not rely on them: {name} has failed its checks ({', '.join(failed)})." if failed else "", name)


def _refused(path: Path, usual: Mapping[str, Mapping[str, Any]]) -> Iterator[Applicant]:
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if line["refused"] == "1":
                stated = {name: _cell(line[name], "median" in of_column) for name, of_column in usual.items()}
                margin, probability = float(line["margin"]), float(line["probability"])
                yield Applicant(int(line["sample"]), int(line["row"]), margin, probability, line["defaulted"] == "1", stated)


def _cell(text: str, is_number: bool) -> float | str | None:
    if text == "":
        return None
    return float(text) if is_number else text


def _some(refused: Sequence[Applicant], most: int) -> list[Applicant]:
    """At most `most`, at even distances from the surest refusal to the narrowest."""
    ranked = sorted(refused, key=lambda one: (-one.probability, one.sample))
    if len(ranked) <= most:
        return ranked
    return [ranked[round(i * (len(ranked) - 1) / max(most - 1, 1))] for i in range(most)]


def _explained(place: Path, margins: Mapping[int, float]) -> tuple[str, dict[int, dict[str, float]]]:
    """(an explainer in `place` of samples of `margins`, of those the one that failed fewest checks, and for each of them what each column adds).

    The log-odds of the other class are explained with the other sign; other log-odds are of another model, and not taken.
    """
    for path in sorted(place.glob("*.jsonl"), key=lambda path: (len(_failed(place, path.stem)), path.stem)):
        signed: dict[int, dict[str, float]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            wanted = margins.get(row.get("sample"))
            for sign in (1, -1):
                if wanted is not None and abs(sign * row["margin"] - wanted) <= SAME * (1 + abs(wanted)):
                    signed[row["sample"]] = {name: sign * value for name, value in zip(row["units"], row["values"], strict=True)}
        if signed:
            return path.stem, signed
    return "", {}


def _failed(place: Path, name: str) -> list[str]:
    """The checks that the explainer `name` has failed."""
    if not (place / CHECKED).is_file():
        return []
    found = json.loads((place / CHECKED).read_text(encoding="utf-8"))["explainers"].get(name, {})
    return [check["name"] for check in found.get("checks", []) if check["passed"] is False]
