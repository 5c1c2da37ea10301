"""What a benchmark prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.measure import Interval
from benchmarks.report import Row, Table, show, write

TABLE = Table("step", "time of a step", ("other: by hand",), (Row("ddp, 10 ms", "10.1 ms", "10.0 ms", Interval(1.01, 0.9912, 1.0188, 40), 1.02),))


def test_table_has_a_line_for_each_row_under_its_headings() -> None:
    lines = show(TABLE).splitlines()
    assert lines[1:3] == ["step: time of a step", "  other: by hand"]
    assert lines[3] == "case        trainer  other    ratio  95 % interval   pairs  limit  verdict"
    assert lines[4] == "ddp, 10 ms  10.1 ms  10.0 ms  1.010  0.991 to 1.019  40     1.02   met"


def test_json_has_every_figure_and_the_verdict(tmp_path: Path) -> None:
    write([TABLE], {"cpus": 2}, tmp_path / "new" / "results.json")
    found = json.loads((tmp_path / "new" / "results.json").read_text(encoding="utf-8"))
    assert found["machine"] == {"cpus": 2}
    assert found["tables"][0]["rows"] == [
        {
            "case": "ddp, 10 ms",
            "ours": "10.1 ms",
            "theirs": "10.0 ms",
            "ratio": {"median": 1.01, "low": 0.9912, "high": 1.0188, "count": 40},
            "limit": 1.02,
            "verdict": "met",
        }
    ]
