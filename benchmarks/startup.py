"""`startup`: from the command to the end of the first step, against torchrun and a bare script."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.measure import collect, median_interval, order
from benchmarks.options import Options
from benchmarks.peers.candidates import BARE, TRAINER
from benchmarks.report import Row, Table

LIMIT = 1.1
WIDTH = 0.1
STEPS = 12


def run(options: Options, directory: Path) -> Table:
    least = options.pairs or 6
    most = least if options.quick or options.pairs else 4 * least
    sides = {"trainer": TRAINER, "other": BARE}
    seconds: dict[str, list[float]] = {name: [] for name in sides}

    def pair(number: int) -> float:
        for name in order(number, list(sides)):
            seconds[name].append(sides[name].train(STEPS, directory / name).first_step)
        return seconds["trainer"][-1] / seconds["other"][-1]

    TRAINER.train(STEPS, directory / "warm-up")  # prepares the data and fills the disk cache for both
    ratio = median_interval(collect(pair, least, most, WIDTH))
    row = Row("ddp, 2 ranks", _seconds(seconds["trainer"]), _seconds(seconds["other"]), ratio, LIMIT)
    return Table(
        "startup", "time from the command to the first finished step", ("other: torchrun and a plain DDP script with the same model and data.",), (row,)
    )


def _seconds(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} s"
