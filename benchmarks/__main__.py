"""python -m benchmarks [step peers startup cli save packed winograd shards explain] [--pairs N] [--quick] [--strategies A,B] [--out DIR]"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from benchmarks.options import Options
from benchmarks.work import RANKS

NAMES = ("step", "peers", "startup", "cli", "save", "packed", "winograd", "shards", "explain")


def parse(arguments: list[str]) -> tuple[list[str], Options, Path]:
    """(benchmarks, options, where to write)."""
    from benchmarks.measure import LEAST_PAIRS
    from benchmarks.save import STRATEGIES as SAVED
    from benchmarks.step import STRATEGIES

    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ratios measured side by side in one run (docs/benchmarks.md).")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--pairs", type=int, help="pairs for each ratio (default: enough for the claim)")
    parser.add_argument("--quick", action="store_true", help=f"{LEAST_PAIRS} pairs, small work: to see that it runs")
    parser.add_argument("--strategies", default=",".join(STRATEGIES), help="for step and save (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="results.json and logs go here (default: %(default)s)")
    given = parser.parse_args(arguments)
    strategies = tuple(given.strategies.split(","))
    if unknown := [name for name in given.names if name not in NAMES]:
        parser.error(f"unknown benchmark {unknown[0]}; there are {', '.join(NAMES)}")
    if unknown := [name for name in strategies if name not in STRATEGIES]:
        parser.error(f"--strategies: unknown strategy {unknown[0]}; there are {', '.join(STRATEGIES)}")
    if "save" in given.names and not set(strategies) & set(SAVED):
        parser.error(f"--strategies: save compares {', '.join(SAVED)}, and none of them is given")
    pairs = LEAST_PAIRS if given.quick and given.pairs is None else given.pairs
    if pairs is not None and pairs < LEAST_PAIRS:
        parser.error(f"--pairs {pairs}: an interval takes at least {LEAST_PAIRS}")
    return list(given.names) or list(NAMES), Options(pairs, given.quick, strategies), given.out.resolve()


def main() -> int:
    names, options, out = parse(sys.argv[1:])
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // RANKS))  # for all processes: ranks share the cores
    from benchmarks import command_line, explain, packed, report, save, shards, startup, step, winograd
    from benchmarks.peers import compare

    modules = (step, compare, startup, command_line, save, packed, winograd, shards, explain)
    run = {name: module.run for name, module in zip(NAMES, modules, strict=True)}
    where = report.machine()
    print(report.describe(where), flush=True)
    tables: list[report.Table] = []
    for name in names:
        start = time.monotonic()
        directory = out / name
        directory.mkdir(parents=True, exist_ok=True)
        tables.append(run[name](options, directory))
        print(report.show(tables[-1]), f"({time.monotonic() - start:.0f} s)", sep="\n", flush=True)
        report.write(tables, where, out / "results.json")
    print(f"\nfigures   {out / 'results.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
