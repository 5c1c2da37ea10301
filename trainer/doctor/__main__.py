"""python -m trainer.doctor RUN_DIR: where every rank is, and which of them holds the run up."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.cli import report as report_error
from trainer.doctor.examine import examine
from trainer.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the finding and return the exit status: 0, or 2 for a directory that is no run."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.doctor", description="Say where every rank of the run in RUN_DIR is, and which of them holds it up. It changes nothing."
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    try:
        print(examine(parser.parse_args(arguments).run_dir)[1])
    except ConfigError as error:
        return report_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
