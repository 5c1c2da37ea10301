"""python -m trainer.drill.start CONFIG_YAML FD: what `python -m trainer` does, with a config that is resolved already.

It ends with the drill, also when that is killed: the other end of the pipe FD closes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from trainer.__main__ import train
from trainer.cli import report
from trainer.launchers.child import end_when_closed


def main() -> int:
    """Train; returns the exit status."""
    from trainer.config import load

    end_when_closed(int(sys.argv[2]))
    try:
        train(load(Path(sys.argv[1])))
    except Exception as error:
        return report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
