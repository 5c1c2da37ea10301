"""`explain`: the time that explanations of many decisions take on several ranks, against one."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from benchmarks.commands import run_quietly
from benchmarks.measure import median_interval, order
from benchmarks.options import Options
from benchmarks.report import Row, Table
from benchmarks.work import COMMON, RANKS, environment

METHODS = {"shap": ["explain=[shap]", "explain.shap.kind=permutation"], "integrated_gradients": ["explain=[integrated_gradients]"], "lime": ["explain=[lime]"]}
DECISIONS = {False: 2_000, True: 100}
"""By `Options.quick`."""
LIMIT = 0.6
"""Of one rank's time on 2 ranks: 0.5, and a fifth of that for what is not shared."""


def run(options: Options, directory: Path) -> Table:
    """Every method, on 2 ranks and on 1."""
    decisions = DECISIONS[options.quick]
    place = directory / "run"
    data = ["data=synthetic", "data.kind=tabular", "data.features=30", f"data.eval_samples={decisions}"]
    common = [f"run_dir={place}", "model=mlp", "train.max_steps=20", "launcher.nproc_per_node=1", *COMMON, *data]
    keys = [key for key in common if not key.startswith("model.")]  # of language models
    run_quietly([sys.executable, "-m", "trainer", *keys], environment(), directory / "train.txt")
    rows = tuple(measure(method, decisions, place, options, directory) for method in METHODS)
    notes = (
        "Seconds from the first decision to the attributions of all of them on rank 0, as explain.json has them; a table of 30 columns, 50 samples of",
        "background, an MLP. trainer: 2 ranks. other: 1 rank. One thread a rank; without evidence.",
    )
    return Table("explain", f"time of {decisions:,} explanations on 2 ranks, against 1", notes, rows)


def measure(method: str, decisions: int, place: Path, options: Options, directory: Path) -> Row:
    seconds: dict[int, list[float]] = {1: [], RANKS: []}
    for number in range(options.pairs or 6):
        for ranks in map(int, order(number, ["1", str(RANKS)])):
            seconds[ranks].append(explained(method, ranks, decisions, place, directory))
    ratio = median_interval([ours / other for ours, other in zip(seconds[RANKS], seconds[1], strict=True)])
    shown = (f"{statistics.median(seconds[ranks]):.1f} s, {decisions / statistics.median(seconds[ranks]):,.0f} a second" for ranks in (RANKS, 1))
    return Row(method, *shown, ratio, LIMIT)  # type: ignore[arg-type]


def explained(method: str, ranks: int, decisions: int, place: Path, directory: Path) -> float:
    """Seconds of `method` on so many ranks."""
    keys = [*METHODS[method], f"launcher.nproc_per_node={ranks}", f"strategy={'single' if ranks == 1 else 'ddp'}"]
    keys += [f"posttrain.explain_samples={decisions}", "posttrain.evidence_samples=0", "log.progress=false"]
    run_quietly([sys.executable, "-m", "trainer.posttrain", str(place), *keys], environment(), directory / f"{method}-{ranks}.txt")
    found = json.loads((place / "explain" / "explain.json").read_text(encoding="utf-8"))
    return found["explainers"][method]["seconds"]
