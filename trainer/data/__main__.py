"""python -m trainer.data NAME ...: look at data before a model is trained on it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {"profile": "trainer.data.profile"}
"""Name to the module whose `main(arguments)` it is."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given and given[0] in COMMANDS:
        return importlib.import_module(COMMANDS[given[0]]).main(given[1:])
    print(f"usage: python -m trainer.data {{{','.join(COMMANDS)}}} [key=value ...]", file=sys.stdout if given in (["-h"], ["--help"]) else sys.stderr)
    return 0 if given in (["-h"], ["--help"]) else 2


if __name__ == "__main__":
    sys.exit(main())
