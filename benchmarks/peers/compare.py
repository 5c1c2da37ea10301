"""`peers`: the same work under other frameworks; every round runs each of them once, in an order drawn for the round."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.commands import Training
from benchmarks.measure import LEAST_PAIRS, median_interval, order, verdict
from benchmarks.options import Options
from benchmarks.peers.candidates import PEERS, TRAINER, Candidate
from benchmarks.report import Row, Table
from trainer.units import size

STEPS = 200
LIMIT = 1.0
WIDTH = 0.05  # an open verdict whose interval is no wider than this means: alike
Figure = tuple[Callable[[Training], float], Callable[[float], str]]
FIGURES: dict[str, Figure] = {
    "step": (lambda run: run.step, lambda seconds: f"{1000 * seconds:.1f} ms"),
    "first step": (lambda run: run.first_step, lambda seconds: f"{seconds:.1f} s"),
    "memory": (lambda run: run.peak, lambda peak: size(int(peak))),
}


def run(options: Options, directory: Path) -> Table:
    candidates = {candidate.name: candidate for candidate in (TRAINER, *PEERS)}
    runs: dict[str, list[Training]] = {name: [] for name in candidates}
    TRAINER.train(12, directory / "warm-up")
    least = options.pairs or LEAST_PAIRS
    most = least if options.quick or options.pairs else 4 * least
    rows: list[Row] = []
    start = time.monotonic()
    for number in range(most):
        for name in order(number, list(candidates)):
            runs[name].append(candidates[name].train(30 if options.quick else STEPS, directory / name.replace(" ", "-").lower()))
        if number + 1 >= least:
            rows = [_row(peer, label, figure, runs) for label, figure in FIGURES.items() for peer in PEERS]
        undecided = [row.case for row in rows if verdict(row.ratio, row.limit) == "open" and row.ratio.width > WIDTH]
        said = f"; undecided: {', '.join(undecided)}" if undecided else ""
        print(f"peers: round {number + 1} of {least} to {most}, {time.monotonic() - start:.0f} s{said}", file=sys.stderr, flush=True)
        if rows and not undecided:
            break
    notes = (
        "DDP on 2 ranks, a process each, separate runs. step: mean of rank 0 after the first 10; first step: from the command until all ranks have",
        "finished it; memory: greatest resident set of any rank until its last step.",
    )
    return Table("peers", "the same work under other frameworks", notes, tuple(rows))


def _row(peer: Candidate, label: str, figure: Figure, runs: dict[str, list[Training]]) -> Row:
    of, show = figure
    ours, theirs = [of(run) for run in runs[TRAINER.name]], [of(run) for run in runs[peer.name]]
    ratio = median_interval([a / b for a, b in zip(ours, theirs, strict=True)])
    return Row(f"{label}, {peer.name}", show(statistics.median(ours)), show(statistics.median(theirs)), ratio, LIMIT)
