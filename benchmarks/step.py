"""`step`: the time of a step against a loop written by hand, both in the same processes in turns."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from benchmarks.commands import run_quietly
from benchmarks.measure import median_interval
from benchmarks.options import Options
from benchmarks.report import Row, Table
from benchmarks.work import LARGE, RANKS, SMALL, Size, environment, save, torchrun

STRATEGIES = ("single", "ddp", "fsdp", "zero1", "zero3")
LIMIT = 1.02
WIDTH = 0.02  # of the interval: what the claim allows
STEPS = 1_000_000  # never reached


def run(options: Options, directory: Path) -> Table:
    """Every strategy at both sizes."""
    sizes = (SMALL,) if options.quick else (SMALL, LARGE)
    rows = [measure(strategy, size, options, directory / f"{strategy}-{size.name.replace(' ', '')}") for size in sizes for strategy in options.strategies]
    notes = (
        f"{RANKS} ranks (single: 1). Both loops in the same processes, made anew for each pair, in an order drawn for it; the slowest rank counts.",
        "trainer: its loader, loop, metrics.jsonl and progress lines (fp32, fused AdamW, clip 1.0). other: bare PyTorch or DeepSpeed by hand, the same model,",
        "optimizer and clip, nanoGPT's get_batch on the same tokens; it too averages each step's loss over the ranks and writes it with the norm to a file.",
    )
    return Table("step", "time of a step against a loop written by hand", notes, tuple(rows))


def measure(strategy: str, size: Size, options: Options, directory: Path) -> Row:
    ranks = 1 if strategy == "single" else RANKS
    config = save([*size.overrides(ranks), f"+strategy={strategy}", f"train.max_steps={STEPS}", f"run_dir={directory}"], directory / "given.yaml")
    least = options.pairs or (60 if size is SMALL else 10)
    most = least if options.quick or options.pairs else 2 * least
    command = [
        *torchrun(ranks),
        "benchmarks.step_ranks",
        str(config),
        str(directory),
        str(size.warm_up),
        str(size.block),
        str(size.turns),
        str(least),
        str(most),
        str(WIDTH),
    ]
    run_quietly(command, environment(), directory / "log.txt")
    times = json.loads((directory / "times.json").read_text(encoding="utf-8"))
    return Row(f"{strategy}, {size.name}", _ms(times["trainer"]), _ms(times["other"]), median_interval(times["ratio"]), LIMIT)


def _ms(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.1f} ms"
