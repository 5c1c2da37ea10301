"""python -m trainer.posttrain RUN_DIR compress=[...] export=[...] assess=credit [key=value ...]: what is done to the model of a finished run."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer import cli
from trainer.errors import ConfigError
from trainer.posttrain.run import check, posttrain
from trainer.posttrain.source import bring_in, source

if TYPE_CHECKING:
    from trainer.config import Config

HELP = """Compress, export or assess the model of the newest checkpoint in RUN_DIR, whatever strategy made it. Overrides change the run's own config.
RUN_DIR may be a Hugging Face directory: then data= is needed, and run_dir= says where what is made is kept.
With -m, compress=[prune],[prune,quantize] makes one after the other."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    command = "python -m trainer.posttrain RUN_DIR"
    if any(argument in ("-h", "--help") for argument in given):
        return cli.main(_nothing, ["--help"], command=command, help_text=HELP)
    try:
        found = source(given)
    except ConfigError as error:
        return cli.report(error)

    def task(config: Config) -> None:
        if found.foreign:
            check(config)
            bring_in(config, found.path)
        else:  # wherever the run is by now, and was called from when it was trained
            config = dataclasses.replace(config, run_dir=str(found.path))
        posttrain(config)

    return cli.main(task, found.overrides, command=command, base=found.base, one_run_dir=True)


def _nothing(config: Config) -> None:
    raise AssertionError(config)


if __name__ == "__main__":
    sys.exit(main())
