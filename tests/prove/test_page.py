"""The table, the page and the verdict, from rows made by hand."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from trainer.config import Config
from trainer.data.synthetic import Synthetic
from trainer.launchers.local import Local
from trainer.models.gpt import GPT
from trainer.prove import html, record, table
from trainer.prove.cells import Row
from trainer.prove.compare import Apart, Finding, What
from trainer.prove.options import ProveOptions
from trainer.prove.reference import Reference
from trainer.prove.trace import Step, Trace
from trainer.prove.verdict import Verdict, conclude, soften
from trainer.sections import OptimConfig, OptimizerName
from trainer.strategies.single import Single


def apart(parameters: float = 1e-7, *findings: Finding, bit_equal: bool = False, steps: int = 3) -> Apart:
    each = [{"loss": 1e-8, "grad_norm": 2e-8, "parameters": parameters} for _ in range(steps)]
    return Apart(1e-8, 2e-8, parameters, "w", bit_equal, each, list(findings))


OUTSIDE = Finding(2, What.PARAMETERS, "w", "parameter w (relative difference 3.0e-02, band 1e-04)")
EQUAL = Row("ddp", 2, "equal", seconds=1.25, optimizers={"sgd": apart(), "adamw": apart()})
SAME = Row("single", 1, "equal", seconds=1.0, optimizers={"sgd": apart(0.0, bit_equal=True), "adamw": apart(0.0, bit_equal=True)})
ABSENT = Row("zero1", 2, "not installed", "strategy=zero1 needs the package 'deepspeed'")
FAILED = Row("fsdp", 4, "failed", "rank 1: ValueError: <b>no</b>", 2.0, trace="Traceback\nValueError: <b>no</b>")


def different() -> Row:
    return Row("zero2", 4, "different", "under sgd, differs first at step 2: parameter w.", 1.0, {"sgd": apart(math.inf, OUTSIDE), "adamw": apart()})


def control(*findings: Finding) -> Row:
    return Row("control", 1, "different" if findings else "equal", optimizers={"sgd": apart(1e-7, *findings), "adamw": apart()})


def reference(bound: int = 3, moved: float = 0.1) -> Reference:
    facts = {"parameters": 12345, "data": {"samples": 9, "source": "<made>"}, "device": "cpu", "dropout": ["model.dropout=0.1"]}
    optimizers = {"sgd": OptimConfig(name=OptimizerName.sgd, lr=0.02), "adamw": OptimConfig(lr=1e-3)}
    clips = {name: {"max_norm": 0.5, "bound_steps": bound, "least_norm": 0.6} for name in optimizers}
    steps = [Step(3.0, 1.0, 0.1, [["a"]], [1])] * 3
    return Reference(
        Path("."), facts, optimizers, clips, {name: Trace(["w"], [1], steps=steps, sketches=np.array([[[1.0]], [[1.0 + moved]]])) for name in optimizers}, {}
    )


def document(rows: list[Row], result: Verdict, steps: int = 3):
    config = Config(run_dir="x", strategy=Single(), model=GPT(), data=Synthetic(), launcher=Local())
    return record.document(record.header(config, config, ProveOptions(steps=steps), reference(), "cpu", "no GPU"), rows, control(), result, 12.34)


def test_table():
    lines = table.text([SAME, EQUAL, different(), ABSENT, FAILED], ["sgd", "adamw"]).splitlines()
    assert lines[0].split("  ")[0] == "strategy"
    assert [line.split() for line in lines[2:]] == [
        ["single", "1", "bit-equal", "bit-equal", "bit-equal", "bit-equal", "✓", "equal", "1.0"],
        ["ddp", "2", "1.0e-08", "2.0e-08", "1.0e-07", "1.0e-07", "✓", "equal", "1.2"],
        ["zero2", "4", "1.0e-08", "2.0e-08", "inf", "1.0e-07", "✗", "different", "1.0"],
        ["zero1", "2", "–", "not", "installed"],
        ["fsdp", "4", "!", "failed", "2.0"],
    ]
    assert table.notes([EQUAL, ABSENT]) == ["zero1 on 2: not installed: strategy=zero1 needs the package 'deepspeed'"]


def test_equal_is_the_verdict_though_something_is_not_installed():
    verdict = conclude([SAME, EQUAL, ABSENT], control(), reference(), None)
    assert verdict == Verdict("equal", [])
    assert verdict.proved


def test_what_was_asked_for_by_name_has_to_run():
    verdict = conclude([EQUAL, ABSENT], control(), reference(), ["ddp", "zero1"])
    assert (verdict.word, verdict.proved) == ("failed", False)
    assert verdict.lines == ["zero1: ran on no number of ranks: strategy=zero1 needs the package 'deepspeed'"]
    assert conclude([ABSENT], control(), reference(), None).lines == ["no strategy ran"]


def test_different_and_failed_name_the_culprit():
    verdict = conclude([EQUAL, different(), FAILED], control(), reference(), None)
    assert verdict.word == "different"
    assert verdict.lines == ["zero2 on 4 ranks: under sgd, differs first at step 2: parameter w.", "fsdp on 4 ranks: rank 1: ValueError: <b>no</b>"]
    assert conclude([EQUAL, FAILED], control(), reference(), None).word == "failed"


def test_a_control_outside_the_bands_is_inconclusive_and_says_what_to_change():
    rows = [EQUAL, different()]
    soften(rows, control(OUTSIDE))
    assert [row.status for row in rows] == ["equal", "inconclusive"]
    verdict = conclude(rows, control(OUTSIDE), reference(), None)
    assert (verdict.word, verdict.proved) == ("inconclusive", False)
    (line,) = verdict.lines
    assert "one process with its micro-batches regrouped is itself outside the bands, at step 2: parameter w" in line
    assert "prove.steps=1" in line
    assert "prove.sgd_lr=0.002" in line
    assert "train.precision=fp64" in line


def test_parameters_that_stand_still_prove_nothing():
    verdict = conclude([EQUAL], control(), reference(moved=1e-9), None)
    assert verdict.word == "inconclusive"
    assert verdict.lines[1] == "under adamw, parameters move by 1e-09 of themselves, less than fp32 can tell: use a higher rate (optim.lr)"


def test_a_control_that_hardly_moves_needs_a_higher_rate():
    (line,) = conclude([EQUAL], control(OUTSIDE), reference(moved=1e-6), None).lines
    assert "Try a higher rate, for parameters move so little that rounding shows (prove.sgd_lr=2), or train.precision=fp64" in line


@pytest.mark.parametrize("what", [What.SAMPLES, What.FROZEN, What.RATE, What.TIES, What.INITIAL, What.RANKS, What.BUFFERS])
def test_what_no_rounding_explains_is_different_even_then(what):
    row = Row("zero2", 4, "different", "", 1.0, {"sgd": apart(1e-2, Finding(1, what)), "adamw": apart()})
    soften([row], control(OUTSIDE))
    assert row.status == "different"


def test_a_difference_under_the_other_optimizer_stays_one():
    row = Row("zero2", 4, "different", "", 1.0, {"sgd": apart(1e-2, OUTSIDE), "adamw": apart(1e-2, OUTSIDE)})
    soften([row], control(OUTSIDE))  # under sgd alone
    assert row.status == "different"


def test_a_clip_that_does_not_bind_proves_nothing():
    verdict = conclude([EQUAL], control(), reference(bound=2), None)
    assert verdict.word == "inconclusive"
    assert verdict.lines[0] == "under sgd, the clip binds in 2 of 3 steps only: use fewer (prove.steps)"


def test_the_record_has_everything_and_no_infinity():
    made = document([SAME, different()], Verdict("different", ["zero2 on 4 ranks: ..."]))
    assert {"verdict", "reasons", "control", "rows", "optimizers", "dropout", "device", "steps", "seed", "versions", "config", "data", "losses"} <= made.keys()
    assert made["format_version"] == 1
    sgd = made["rows"][1]["optimizers"]["sgd"]
    assert sgd["parameters"] is None
    assert sgd["findings"] == [{"step": 2, "what": "parameters", "name": "w", "text": OUTSIDE.text}]
    assert made["optimizers"]["sgd"]["parameter_band"] == 1e-4
    assert record.sentence(made) == "different: 1 of 2 runs train like one process"


def test_the_header_says_dropout_and_clip():
    said = "\n".join(record.said(document([EQUAL], Verdict("equal", []))))
    assert "dropout: set to 0 (model.dropout=0.1)" in said
    assert "clip 0.5 (binds in 3 of 3 steps)" in said


class Checker(HTMLParser):
    """Every tag that is opened is closed, and nothing is loaded."""

    VOID = ("meta", "link", "br")

    def __init__(self):
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        assert not any(key in ("src", "srcset") or (key == "href" and value != "data:,") for key, value in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_escaped():
    text = html.page(document([SAME, EQUAL, different(), ABSENT, FAILED], Verdict("different", ["<script>"])))
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert "<b>no</b>" not in text
    assert "<script>" not in text
    assert "&lt;made&gt;" in text
    assert "infinite outside" in text  # in words: colour is not the only sign
    assert re.search(r"✗ different</td>", text)
    assert text.count("bit-equal") == 4
