"""python -m trainer.posttrain RUN_DIR compress=[...] [key=value ...]: compress the model of a finished run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import cli
from trainer.errors import ConfigError
from trainer.posttrain.run import posttrain

if TYPE_CHECKING:
    from trainer.config import Config

HELP = "Compress the model of the newest checkpoint in RUN_DIR, whatever strategy made it. Overrides change the run's own config."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    command = "python -m trainer.posttrain RUN_DIR"
    if any(argument in ("-h", "--help") for argument in given):
        return cli.main(_nothing, ["--help"], command=command, help_text=HELP)
    try:
        base = _base(given)
    except ConfigError as error:
        return cli.report(error)
    return cli.main(posttrain, given[1:], command=command, base=base)


def _nothing(config: Config) -> None:
    raise AssertionError(config)


def _base(given: Sequence[str]) -> Path:
    if not given or "=" in given[0] or given[0].startswith("-"):
        raise ConfigError("RUN_DIR: give the directory of a run first, such as python -m trainer.posttrain runs/x compress=[prune]")
    base = Path(given[0]) / "config.yaml"
    if not base.exists():
        raise ConfigError(f"{given[0]}: is not the directory of a run (it has no config.yaml)")
    return base


if __name__ == "__main__":
    sys.exit(main())
