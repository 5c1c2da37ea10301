"""python -m trainer.prove [key=value ...] [prove.strategies=[...] prove.ranks=[...] prove.steps=N]: prove strategies equal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from trainer.cli import main as cli_main
from trainer.cli import report as report_error
from trainer.errors import ConfigError

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
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if any(argument in ("-h", "--help") for argument in arguments):
        return cli_main(lambda config: None, ["--help"], command="python -m trainer.prove", help_text=HELP)
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: ranks are forks, and threads do not survive a fork
    from trainer.prove.options import split

    try:
        if any(argument in ("-m", "--multirun") for argument in arguments):
            raise ConfigError("--multirun: the proof runs every strategy by itself; start it once for each config")
        options, rest = split(arguments)
    except ConfigError as error:
        return report_error(error)

    def task(config) -> None:
        from trainer.prove.run import prove

        prove(config, options)

    return cli_main(task, rest, command="python -m trainer.prove")


if __name__ == "__main__":
    sys.exit(main())
