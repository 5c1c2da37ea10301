"""python -m trainer.data {profile,validate,split,card} data=... [key=value ...]: look at a table before training on it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {name: f"trainer.data.{name}" for name in ("profile", "validate", "split", "card")}
"""Name to the module whose `main(arguments)` it is."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        return importlib.import_module(COMMANDS[given[0]]).main(given[1:])
    asked = given in (["-h"], ["--help"])
    print(f"usage: python -m trainer.data {{{','.join(COMMANDS)}}} data=... [key=value ...]", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
