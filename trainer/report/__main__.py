"""python -m trainer.report RUN_DIR: write the report of a finished, stopped or half run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.cli import report as report_error
from trainer.errors import ConfigError, RunError
from trainer.report.page import write


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report, print its path and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer.report", description="Write RUN_DIR/report.html from what RUN_DIR holds.")
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    try:
        print(write(parser.parse_args(arguments).run_dir))
    except (ConfigError, RunError) as error:
        return report_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
