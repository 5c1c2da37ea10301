import itertools
import json
import re
import subprocess
import sys
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path

import pytest

from trainer.errors import ConfigError, RunError
from trainer.report.__main__ import main
from trainer.report.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Envelope, Series, chart, linear_ticks, log_ticks
from trainer.report.page import write
from trainer.report.summary import summarise


def record(step: int, **changes: object) -> dict:
    values = {"step": step, "loss": 2.0, "grad_norm": 1.0, "lr": 0.001, "tokens": step * 100, "step_seconds": 0.5, "data_seconds": 0.1}
    return {**values, "tokens_per_second": 200.0, "mfu": 0.4, "memory_bytes": 300 * 2**20, **changes}


def write_lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(item) + "\n" for item in records))


def run_dir(tmp_path: Path) -> Path:
    """A finished run with everything in it, and text that would break a page that does not escape."""
    path = tmp_path / "a<b>run"
    path.mkdir()
    write_lines(path / "metrics.jsonl", [record(step, loss=6.0 / step) for step in range(1, 41)])
    write_lines(path / "evals.jsonl", [{"step": 20, "loss": 0.5, "</script><b>": 0.25}, {"step": 40, "loss": 0.25, "</script><b>": 0.5}])
    (path / "config.yaml").write_text("optim:\n  max_norm: 0.75\nnote: </pre><script>alert(1)</script>\n")
    run = {"strategy": "fsdp", "world_size": 2, "device": "cpu", "model": "GPT", "parameters": 3_145_728, "max_steps": 40}
    start = {"started": "2026-01-02T03:04:05+00:00", "first_step": 1, "strategy": "ddp", "resumed_from": None}
    write_record = {
        "status": "finished",
        "started": start["started"],
        "ended": "2026-01-02T04:04:05+00:00",
        "run": {**run, "data": {"unigram_entropy": 3.2134, "fingerprint": "9f86d0", "source": "<none> & more"}},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "hardware": {"cpus": 2, "memory_bytes": 3 * 2**30},
        "sessions": [start, {**start, "first_step": 21, "strategy": "fsdp"}],
        "facts": {"sample": "if a < b:\n    <img src=x onerror=alert(1)>", "eval": {"loss": 0.25}},
    }
    (path / "run.json").write_text(json.dumps(write_record))
    return path


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


# Thinning


def test_a_short_curve_is_kept_whole():
    curve = Envelope(1, 5, columns=100)
    for step in range(1, 6):
        curve.add(step, step * 1.5)
    assert curve.runs() == [[(1, 1.5), (2, 3.0), (3, 4.5), (4, 6.0), (5, 7.5)]]


def test_a_long_curve_keeps_first_lowest_highest_and_last_of_every_column():
    values = [(step * 7919) % 1009 / 10 for step in range(10_000)]
    curve = Envelope(0, 9_999, columns=10)
    for step, value in enumerate(values):
        curve.add(step, value)
    (points,) = curve.runs()
    assert points == sorted(points)
    assert len(points) <= 40
    for column in range(10):
        steps = range(column * 1000, (column + 1) * 1000)
        kept = [value for step, value in points if step in steps]
        assert (min(kept), max(kept)) == (min(values[step] for step in steps), max(values[step] for step in steps))
        assert {(steps[0], values[steps[0]]), (steps[-1], values[steps[-1]])} <= set(points)
    assert all(values[step] == value for step, value in points)


def test_a_single_spike_in_a_million_steps_is_kept():
    curve = Envelope(1, 1_000_000)
    for step in range(1, 1_000_001, 10):
        curve.add(step, 99.0 if step == 123_451 else 1.0)
    assert (123_451, 99.0) in [point for run in curve.runs() for point in run]


def test_what_is_not_finite_is_a_gap_only_where_nothing_else_is():
    curve = Envelope(1, 4, columns=4)
    for step, value in ((1, 1.0), (2, None), (3, 3.0), (4, 4.0)):
        curve.add(step, value)
    assert curve.runs() == [[(1, 1.0)], [(3, 3.0), (4, 4.0)]]
    curve = Envelope(1, 4, columns=2)
    for step, value in ((1, None), (2, 2.0), (3, 3.0), (4, None)):
        curve.add(step, value)
    assert curve.runs() == [[(2, 2.0), (3, 3.0)]]


# Axes


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1.3, 5.5), (0, 1e-3), (200, 200), (0, 0), (-1e-5, 3e-5), (0, 7.3e9), (0.1, 0.3)])
def test_linear_ticks_enclose_the_values(low, high):
    ticks = linear_ticks(low, high, 5)
    assert ticks[0] <= low + 1e-9 * abs(low)
    assert ticks[-1] >= high - 1e-9 * abs(high)
    assert 2 <= len(ticks) <= 8
    gaps = [after - before for before, after in itertools.pairwise(ticks)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps))


def test_ticks_are_round():
    assert linear_ticks(1.3, 5.5, 5) == [1, 2, 3, 4, 5, 6]
    assert linear_ticks(0, 0.001, 4) == pytest.approx([0, 0.00025, 0.0005, 0.00075, 0.001])
    assert log_ticks(0.4, 40) == pytest.approx([0.1, 1, 10, 100])
    assert log_ticks(1, 1) == pytest.approx([1, 10])
    assert log_ticks(1e-9, 1e9)[0] <= 1e-9
    assert log_ticks(1e-9, 1e9)[-1] >= 1e9


def path_of(figure: str, style: str) -> list[tuple[float, float]]:
    found = re.search(rf'<path class="curve {style}" d="([^"]*)"', figure)
    assert found is not None
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", found[1])]


def test_points_are_drawn_where_their_values_are():
    figure = chart("Loss", [Series("train", "train", [[(1, 20.0), (2, 25.0), (3, 30.0)]])], str)
    middle, bottom = (TOP + HEIGHT - BOTTOM) / 2, HEIGHT - BOTTOM
    assert path_of(figure, "train") == [(LEFT, bottom), ((LEFT + WIDTH - RIGHT) / 2, middle), (WIDTH - RIGHT, TOP)]


def test_a_logarithmic_axis():
    figure = chart("Norm", [Series("train", "train", [[(1, 1.0), (2, 10.0), (3, 100.0)]])], str, log=True)
    assert [y for _, y in path_of(figure, "train")] == [HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2, TOP]
    assert "Norm (log)" in figure
    assert "(log)" not in chart("Norm", [Series("train", "train", [[(1, 0.0), (2, 10.0)]])], str, log=True)


def test_a_chart_says_its_numbers_in_words():
    figure = chart("Loss", [Series("train", "train", [[(1, 5.0), (20, 1.0)], [(30, 2.0)]])], lambda value: f"{value:g}")
    words = "train: 5 at step 1, 2 at step 30, lowest 1 (step 20), highest 5 (step 1)"
    page = Page(figure)
    assert page.all("svg") == [{"viewbox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": f"Loss over 1 to 30 steps. {words}"}]
    assert f"<figcaption>{words}</figcaption>" in figure
    assert '"points":[[1,"5"],[20,"1"],[30,"2"]]' in figure
    assert chart("Empty", [Series("train", "train", [])], str) == ""


def test_a_name_cannot_end_the_data_of_a_chart():
    page = Page(chart("Loss", [Series("</script><b>", "train", [[(1, 5.0)]])], str))
    assert not page.all("b")
    assert len(page.all("script")) == 1


# Totals


def test_totals(tmp_path):
    write_lines(
        tmp_path / "metrics.jsonl",
        [
            record(11, tokens=1100, step_seconds=1.0, data_seconds=0.5, tokens_per_second=100.0, mfu=0.1, loss=4.0),
            record(12, tokens=1400, step_seconds=3.0, data_seconds=0.1, tokens_per_second=100.0, mfu=0.5, loss=2.0, memory_bytes=2**30),
            record(13, tokens=1500, step_seconds=1.0, data_seconds=0.0, tokens_per_second=100.0, mfu=None, loss=None, skipped=True),
        ],
    )
    write_lines(tmp_path / "evals.jsonl", [{"step": 12, "loss": 3.0}, {"step": 13, "loss": 2.5}])
    summary = summarise(tmp_path)
    assert (summary.first, summary.last, summary.steps, summary.tokens) == (11, 13, 3, 1500)
    assert summary.seconds == pytest.approx(5.0)
    assert summary.data_seconds == pytest.approx(0.6)
    assert summary.tokens_per_second == pytest.approx(100.0)
    assert summary.mfu == pytest.approx((0.1 * 1 + 0.5 * 3) / 4)  # over the time that has one
    assert summary.loss == pytest.approx((4.0 * 100 + 2.0 * 300) / 400)  # over tokens
    assert summary.memory_bytes == 2**30
    assert summary.skipped == 1
    assert summary.last_eval == {"step": 13, "loss": 2.5}
    assert summary.evals == {"loss": [[(12, 3.0), (13, 2.5)]]}
    assert summary.curves["loss"] == [[(11, 4.0), (12, 2.0)]]


def test_rates_are_means_over_time(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [record(1, step_seconds=1.0, tokens_per_second=100.0), record(2, step_seconds=4.0, tokens_per_second=25.0)])
    assert summarise(tmp_path).tokens_per_second == pytest.approx(200 / 5)


def test_the_loss_is_that_of_the_last_20_steps(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [record(step, loss=float(step)) for step in range(1, 41)])
    assert summarise(tmp_path).loss == pytest.approx(sum(range(21, 41)) / 20)


def test_reading_takes_little_memory_however_long_the_run(tmp_path):
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(1, 20_001):
            file.write(json.dumps(record(step, loss=(step * 7919) % 1009)) + "\n")
    tracemalloc.start()
    summarise(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * 2**20  # the lines alone are 4 MiB, as dictionaries 20


# The page


def test_the_page_is_one_file_that_loads_nothing(tmp_path):
    text = write(run_dir(tmp_path)).read_text()
    page = Page(text)
    links = [value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href", "action", "data", "poster", "srcset")]
    assert links == ["data:,"]  # the icon, so that a browser does not ask for one
    assert not re.search(r"https?:|//\w|url\(|@import|fetch\(|XMLHttpRequest", text)


def test_what_others_wrote_is_text(tmp_path):
    page = Page(write(run_dir(tmp_path)).read_text())
    assert not page.all("b")
    assert not page.all("img")
    scripts = page.all("script")
    assert [item.get("type") for item in scripts].count(None) == 1  # our own; the others are data
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "a<b>run" in page.text
    assert "<none> & more" in page.text
    assert "</pre><script>alert(1)</script>" in page.text


def test_everything_asked_for_is_on_the_page(tmp_path):
    page = Page(write(run_dir(tmp_path)).read_text())
    for title in ("Loss", "Gradient norm", "Learning rate", "Tokens per second", "Peak memory (MiB)", "Seconds per step"):
        assert any((item["aria-label"] or "").startswith(f"{title} over 1 to 40 steps.") for item in page.all("svg")), title
    labels = " ".join(item["aria-label"] or "" for item in page.all("svg"))
    assert "eval: 0.5 at step 20, 0.25 at step 40" in labels
    assert "unigram entropy of the data 3.213" in labels
    assert "clipped to 0.75" in labels
    expected = [
        "finished",
        "fsdp on 2 x cpu",
        "3,145,728 parameters",
        "2026-01-02 03:04 UTC",
        "9f86d0",
        "2.13.0",
        "3.00 GiB",
        "40.0%",
        "0:00:20",
        "20.0% of it waiting",
    ]
    for text in [*expected, "Starts", "ddp", "max_norm: 0.75"]:
        assert text in page.text, text


def test_it_can_be_read_by_all(tmp_path):
    text = write(run_dir(tmp_path)).read_text()
    page = Page(text)
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert len(page.all("h1")) == 1
    assert re.search(r"<title>a&lt;b&gt;run: training report</title>", text)
    assert all(item.get("role") == "img" and item.get("aria-label") for item in page.all("svg"))
    assert all(item.get("scope") in ("row", "col") for item in page.all("th"))
    assert "prefers-color-scheme: dark" in text


def test_it_is_a_pure_function_of_the_directory(tmp_path):
    path = run_dir(tmp_path)
    first = write(path).read_bytes()
    assert write(path).read_bytes() == first
    assert sorted(item.name for item in path.iterdir()) == ["config.yaml", "evals.jsonl", "metrics.jsonl", "report.html", "run.json"]


def test_half_a_run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record(1)) + "\n" + json.dumps(record(2)) + '\n{"step": 3, "lo')
    page = Page(write(tmp_path).read_text())
    assert "status not recorded" in page.text
    assert any("Loss over 1 to 2 steps" in (item["aria-label"] or "") for item in page.all("svg"))


def test_a_run_without_a_step(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "run.json").write_text(json.dumps({"status": "running"}))
    page = Page(write(tmp_path).read_text())
    assert "not ended: still running, or killed" in page.text
    assert "No step was recorded." in page.text
    assert not page.all("svg")


def test_a_run_whose_numbers_are_all_not_finite(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [record(1, loss=None, grad_norm=None, mfu=None, skipped=True)])
    page = Page(write(tmp_path).read_text())
    assert "Steps skipped" in page.text
    assert not any((item["aria-label"] or "").startswith("Loss") for item in page.all("svg"))


def test_errors(tmp_path):
    with pytest.raises(ConfigError) as config_error:
        write(tmp_path)
    assert str(config_error.value) == f"{tmp_path}: there is no metrics.jsonl there. Right would be a run directory: what `run_dir` was when the run began"
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nbroken\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"metrics.jsonl: line 2 is not a JSON object with a step"):
        write(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_command(tmp_path, capsys):
    assert main([str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'nothing'}: there is no metrics.jsonl there.")
    write_lines(tmp_path / "metrics.jsonl", [record(1)])
    done = subprocess.run([sys.executable, "-m", "trainer.report", str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'report.html'}\n"
