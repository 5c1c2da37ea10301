"""`cli`: what answers without training, against an empty application of Hydra."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.commands import Used, run_timed
from benchmarks.measure import collect, median_interval, order
from benchmarks.options import Options
from benchmarks.report import Row, Table
from benchmarks.work import environment

LIMIT = 2.0
WIDTH = 0.2
EMPTY = [sys.executable, "-m", "benchmarks.empty_hydra"]
ANSWERS = {
    "--help": (["--help"], 0),
    "unknown key": (["train.max_stepz=3"], 2),
    "wrong type": (["train.max_steps=many"], 2),
    "impossible value": (["+strategy=ddp", "launcher.nproc_per_node=3", "train.global_batch_size=16"], 2),
}
FIGURES: dict[str, Callable[[Used], float]] = {"wall": lambda used: used.wall, "CPU": lambda used: used.cpu}


def run(options: Options, directory: Path) -> Table:
    rows = [row for name, (arguments, status) in ANSWERS.items() for row in measure(name, arguments, status, options, directory)]
    return Table("cli", "a config error and --help", ("other: an empty @hydra.main application.",), tuple(rows))


def measure(name: str, arguments: list[str], status: int, options: Options, directory: Path) -> list[Row]:
    least = options.pairs or (6 if options.quick else 12)
    most = least if options.quick or options.pairs else 4 * least
    ours, other = [sys.executable, "-m", "trainer", *arguments], EMPTY
    used: dict[str, list[Used]] = {"trainer": [], "other": []}

    def pair(number: int) -> float:
        for side in order(number, ["trainer", "other"]):
            command, expected = (ours, status) if side == "trainer" else (other, 0)
            found = run_timed(command, environment(), directory / f"{side}.txt")
            if found.status != expected:
                raise RuntimeError(f"{' '.join(command)}: ended with {found.status}, not {expected}; see {directory}")
            used[side].append(found)
        return used["trainer"][-1].wall / used["other"][-1].wall

    collect(pair, least, most, WIDTH)
    rows = []
    for figure, of in FIGURES.items():
        sides = {side: [of(one) for one in several] for side, several in used.items()}
        ratio = median_interval([a / b for a, b in zip(sides["trainer"], sides["other"], strict=True)])
        rows.append(Row(f"{name}, {figure}", f"{statistics.median(sides['trainer']):.2f} s", f"{statistics.median(sides['other']):.2f} s", ratio, LIMIT))
    return rows
