"""Pages about compressed models: what they say of figures that are given to them."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from trainer.posttrain import index, report
from trainer.posttrain.chains import Chain, front
from trainer.posttrain.pictures import errors, ratios


def figures(loss: float, disk: int, seconds: float, **more) -> dict:
    latency = {batch: {"median": seconds, "p90": 2 * seconds, "passes": 30, "threads": 1} for batch in ("1", "32")}
    metrics = {"loss": {"value": loss, "low": loss - 0.1, "high": loss + 0.1}}
    sizes = {"parameters": 1000, "nonzero_parameters": 1000, "macs": 5000, "macs_leave_out": [], "disk_bytes": disk, "memory_bytes": disk}
    return {**sizes, "metrics": metrics, "latency": latency, **more}


def chain(name: str, loss: float, disk: int, seconds: float, **more) -> Chain:
    found = {
        "from": "runs/x/checkpoints/step-1",
        "samples": 64,
        "chain": {"prune": {"_target_": "trainer.compress.prune.Prune", "sparsity": 0.7, "layers": ["*"], "finetune": {"steps": 20, "lr": None}}},
        "before": figures(2.0, 4096, 0.01),
        "after": figures(loss, disk, seconds, **more),
        "difference": {"loss": {"value": loss - 2.0, "low": -0.1, "high": 0.1}},
        "quality": "loss",
        "higher_is_better": False,
        "quality_loss": (loss - 2.0) / 2.0,
        "layers": {"prune": {"<a>.b": {"sparsity": 0.7, "error": 0.25}, "c": {"error": 0.5}}},
    }
    return Chain(name, found)


class Checked(HTMLParser):
    """Sees that every element that is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_front_is_what_nothing_else_beats():
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 4.5), (3.0, 4.0), (4.0, 1.0), (4.0, 1.0)]
    assert front(points) == [True, True, False, False, True, True]


def test_a_chain_is_named_by_its_methods_and_what_is_not_as_by_default():
    assert chain("x", 2.0, 1, 1.0).title() == "prune sparsity=0.7 finetune.steps=20"


def test_the_index_marks_the_front_and_links_to_every_report():
    small, beaten, better = chain("small", 2.5, 1024, 0.02), chain("beaten", 2.6, 2048, 0.02), chain("better", 1.9, 4096, 0.005)
    text = index.page("run", [small, beaten, better])
    Checked(text)
    rows = re.findall(r"<tr[ >].*?</tr>", text)
    marked = {re.search(r'href="(\w+)/report.html"', row)[1]: "class=best" in row for row in rows if "href" in row}  # type: ignore[index]
    assert marked == {"small": True, "beaten": False, "better": True}
    disk, first, second = re.findall(r"on the front: ([^<]*)</figcaption>", text)
    assert disk == "1, 3"
    assert first == second == "3"


@pytest.mark.parametrize("more", [{"quality": "accuracy"}, {"samples": 10}, {"from": "runs/x/checkpoints/step-2"}])
def test_what_cannot_be_compared_is_not(more):
    other = chain("other", 1.0, 1, 0.001)
    found = {**other.found, **more}
    for when in ("before", "after"):
        found[when] = {**found[when], "metrics": {found["quality"]: found[when]["metrics"]["loss"]}}
    text = index.page("run", [chain("small", 2.5, 1024, 0.02), Chain("other", found)])
    assert text.count('<p class="lead">') == 2


def test_the_report_says_and_draws_what_compress_json_holds():
    found = dict(chain("x", 2.5, 1024, 0.02, macs=2500, macs_leave_out=["blocks.0.up"], nonzero_parameters=300).found)
    text = report.page("x<y", found)
    Checked(text)
    assert "x&lt;y" in text
    assert "<a>.b" not in text
    assert "25.00% worse on 64 samples" in text
    assert "MACs after are without 1 layers whose arithmetic PyTorch&#x27;s counter does not know, such as blocks.0.up" in text
    assert ("parameters not zero", "1,000", "300", "0.3 x") in report.rows(found)
    assert ("weights on disk", "4 KiB", "1 KiB", "0.25 x") in report.rows(found)
    assert dict(report.left(found))["latency, batch 32"] == 2.0
    assert "largest 0.5 (c), median 0.375" in text


def test_bars_are_as_long_as_what_they_stand_for():
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', ratios("left", [("a", 0.25), ("b", 0.5), ("c", 2.0)]))]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.01)
    assert widths[2] == pytest.approx(8 * widths[0], rel=0.01)
    heights = [float(height) for height in re.findall(r'<rect[^>]* height="([\d.]+)"', errors("error", {"a": 0.1, "b": 0.4}))]
    assert heights[1] == pytest.approx(4 * heights[0], rel=0.01)
