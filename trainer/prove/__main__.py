"""python -m trainer.prove [key=value ...] [prove.strategies=[...] prove.ranks=[...] prove.steps=N]: prove strategies equal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer import own_options
from trainer.prove.options import ProveOptions, split

if TYPE_CHECKING:
    from trainer.config import Config

HELP = """Train the same model on the same data under every strategy and compare with one process.

Options of this command beside those of python -m trainer:
  prove.strategies=[ddp,fsdp]  which strategies (default: all)
  prove.ranks=[1,2,4]          on how many processes
  prove.steps=10               optimizer steps
  prove.global_batch_size=8    samples in a step, in place of train.global_batch_size
  prove.micro_batch_size=1     samples in a forward pass, in place of train.micro_batch_size
  prove.sgd_lr=RATE            of the plain SGD witness (default: chosen from the parameters' norm)
  prove.resume=true            also save in the middle of each run, and go on from there
  prove.timeout=300            seconds that a strategy has on one number of ranks

Writes prove.json and prove.html to run_dir. Exit status 0: proved equal; 1: not, and the culprit is named."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: ranks are forks, and threads do not survive a fork
    one_config = "the proof runs every strategy by itself; start it once for each config"
    return own_options.run(sys.argv[1:] if arguments is None else arguments, "prove", HELP, one_config, split, _prove)


def _prove(config: Config, options: ProveOptions) -> None:
    from trainer.prove.run import prove

    prove(config, options)


if __name__ == "__main__":
    sys.exit(main())
