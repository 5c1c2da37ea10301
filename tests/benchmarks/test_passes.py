"""Two ways timed in turns."""

from __future__ import annotations

from pathlib import Path
from time import sleep

from benchmarks import packed, winograd
from benchmarks.options import Options
from benchmarks.passes import PASSES, compare

QUICK = Options(6, True, ())


def test_the_ratio_is_ours_over_theirs_and_both_have_their_turns_in_every_pair() -> None:
    calls = {"ours": 0, "theirs": 0}

    def way(name: str, seconds: float) -> None:
        calls[name] += 1
        sleep(seconds)

    row = compare("x", lambda: way("ours", 0.02), lambda: way("theirs", 0), QUICK)
    assert calls == dict.fromkeys(calls, (1 + 6) * PASSES)
    assert (row.case, row.ratio.count, row.limit) == ("x", 6, 1.0)
    assert row.ratio.median > 1


def test_packed_layers_and_convolutions_have_a_row_for_each_comparison(tmp_path: Path) -> None:
    assert [row.case for row in packed.run(QUICK, tmp_path).rows] == [
        f"{kind}, 1 x 128 x 128, {other}" for kind in ("binary", "ternary") for other in ("fp32", "int8")
    ]
    assert [row.case for row in winograd.run(QUICK, tmp_path).rows] == [f"F({n}x{n}), 1 x 16 x 16 x 16{of}" for n in (2, 4) for of in ("", ", training")]
