"""`save`: how long a step that saves is blocked when writing overlaps training, against a save that training waits for."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from benchmarks.commands import run_quietly
from benchmarks.measure import median_interval
from benchmarks.options import Options
from benchmarks.report import Row, Table
from benchmarks.work import COMMON, RANKS, environment, save, torchrun

LIMIT = 0.10
WIDTH = 0.05  # of the interval: half of what the claim allows
STRATEGIES = ("ddp", "fsdp", "zero1", "zero3")
MODELS = {False: ("gpt_50m", "50 M parameters"), True: ("gpt_1m", "6 M parameters")}
"""By `Options.quick`."""


def run(options: Options, directory: Path) -> Table:
    """Those of the chosen strategies that cut the state differently over the ranks."""
    rows = [measure(strategy, options, directory / strategy) for strategy in STRATEGIES if strategy in options.strategies]
    notes = (
        f"{RANKS} ranks, after a step of training each: seconds from the call of the save to its return, of the slowest rank; both kinds in the same",
        "processes, in an order drawn for each pair. trainer: checkpoint.overlap=true, which copies the state and writes it in a thread (the end of that is",
        "waited for before the next). other: checkpoint.overlap=false, which returns when the checkpoint is whole. Both write the same files, fsync included.",
        "kept: memory of the copy, on each rank. made: what is made of it beside while it is written: DeepSpeed's state lies flat in other pieces than a",
        "checkpoint's, and the ranks exchange it.",
    )
    return Table("save", "time for which a step that saves is blocked", notes, tuple(rows))


def measure(strategy: str, options: Options, directory: Path) -> Row:
    model, told = MODELS[options.quick]
    shape = [
        f"model={model}",
        "data=synthetic",
        "data.vocab_size=32000",
        "data.seq_len=64",
        f"train.global_batch_size={RANKS}",
        f"launcher.nproc_per_node={RANKS}",
    ]
    config = save([*COMMON, *shape, f"+strategy={strategy}", "train.max_steps=1000000", f"run_dir={directory}"], directory / "given.yaml")
    least = options.pairs or 12
    most = least if options.quick or options.pairs else 3 * least
    command = [*torchrun(RANKS), "benchmarks.save_ranks", str(config), str(directory), str(least), str(most), str(WIDTH)]
    run_quietly(command, environment(), directory / "log.txt")
    times = json.loads((directory / "times.json").read_text(encoding="utf-8"))
    ratio = median_interval([ours / other for ours, other in zip(times["overlap"], times["wait"], strict=True)])
    memory = f"{times['kept'] / 1e6:.0f} MB kept, {times['made'] / 1e6:.0f} MB made"
    return Row(f"{strategy}, {told}, {memory}", _ms(times["overlap"]), _ms(times["wait"]), ratio, LIMIT)


def _ms(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.0f} ms"
