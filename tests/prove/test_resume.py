"""Resuming under proof: the option, the table and the page, and what a control may excuse. (Seeded bugs: test_seeded_bugs.py.)"""

from __future__ import annotations

import math

import pytest

from tests.prove.test_page import OUTSIDE, apart, control, document
from trainer.errors import ConfigError
from trainer.prove import html, record, table
from trainer.prove.cells import Row
from trainer.prove.options import ProveOptions, split
from trainer.prove.resume import Resumed, first_difference
from trainer.prove.trace import Step, Trace
from trainer.prove.verdict import Verdict, soften


def row(status: str = "equal", reason: str = "", **changed: object) -> Row:
    resumed = {"saved": 2e-6, "own_bit_equal": True, "crossed": apart(3e-7), **changed}
    both = {name: apart() for name in ("sgd", "adamw")}
    return Row("ddp", 4, status, reason, 1.0, both, {"sgd": Resumed(**resumed), "adamw": Resumed(1e-6, True, apart())})  # type: ignore[arg-type]


def test_the_option_has_a_short_name_and_needs_two_steps():
    assert split(["resume=true", "optim.lr=1"]) == (ProveOptions(resume=True), ["optim.lr=1"])
    assert split(["prove.resume=true"])[0].resume
    with pytest.raises(ConfigError, match=r"^prove\.steps=1: prove\.resume=true saves after half of them, so must be at least 2$"):
        split(["resume=true", "prove.steps=1"])


def test_the_table_has_three_more_columns():
    lines = [line.split() for line in table.text([row(), row(own_bit_equal=False)], ["sgd", "adamw"]).splitlines()]
    assert lines[0][-7:] == ["saved", "own", "resumed", "single's", "resumed", "verdict", "seconds"]
    assert lines[2][6:9] == ["2.0e-06", "bit-equal", "3.0e-07"]
    assert lines[3][6:9] == ["2.0e-06", "different", "3.0e-07"]


def test_the_page_shows_what_is_outside():
    made = document([row(), row("different", "a reason", saved=math.inf, wrong=["a reason"])], Verdict("different", ["a reason"]))
    made["resume_at"] = 2
    page = html.page(made)
    assert page.count("<th>own resumed<small>step 2</small></th>") == 1
    assert page.count("2.0e-06") == 1
    assert "infinite outside" in page


def test_the_verdict_says_what_was_shown():
    made = document([row()], Verdict("equal", []))
    assert record.sentence(made) == "equal: 1 strategies in 1 runs train like one process"
    made["resume_at"] = 2
    assert record.sentence(made).endswith("train like one process, save what it saves, and go on from it as if nothing had happened")


def test_a_touchy_control_excuses_rounding_but_no_bits():
    rows = [row("different", outside=["beyond a band"]), row("different", wrong=["not bit-equal"])]
    soften(rows, control(OUTSIDE))
    assert [item.status for item in rows] == ["inconclusive", "different"]
    rows = [row("different", outside=["beyond a band"])]
    soften(rows, control())
    assert rows[0].status == "different"


def trace(losses: list[float], digests: list[str]) -> Trace:
    return Trace(["w"], [1], steps=[Step(loss, 1.0, 0.1, [["a"]], [1]) for loss in losses], digests=[[digest] for digest in digests])


def test_the_first_difference_in_bits_is_named():
    whole = trace([3.0, 2.0], ["a", "b", "c"])
    assert first_difference(trace([3.0, 2.0], ["a", "b", "c"]), whole) == ""
    assert first_difference(trace([3.0, 2.5], ["a", "b", "c"]), whole) == "loss of step 2 (2.5 instead of 2.0)"
    assert first_difference(trace([3.0, 2.0], ["a", "x", "c"]), whole) == "w after step 1"
