"""python -m trainer.drill [key=value ...] [drill.steps=N drill.seed=N drill.faults=[...]]: rehearse faults on this config."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer import own_options
from trainer.drill.options import FAULTS, DrillOptions, split

if TYPE_CHECKING:
    from trainer.config import Config

HELP = f"""Train a few steps uninterrupted, then again with each fault, made from outside on real processes, and compare.

Options of this command beside those of python -m trainer:
  drill.steps=12           optimizer steps of each run (default: 12, or train.max_steps if that is less)
  drill.seed=N             fixes the random moments (default: another one each time, which is printed)
  drill.faults=[a,b]       which (default: all): {", ".join(FAULTS)}
  drill.timeout=600        seconds that each run has

Writes drill.json to run_dir. Exit status 0: no work is lost; 1: some is, or it could not be told, and the fault is named."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    return own_options.run(sys.argv[1:] if arguments is None else arguments, "drill", HELP, "a drill is of one config; start it once for each", split, _drill)


def _drill(config: Config, options: DrillOptions) -> None:
    from trainer.drill.drill import drill

    drill(config, options)


if __name__ == "__main__":
    sys.exit(main())
