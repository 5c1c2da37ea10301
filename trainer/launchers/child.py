"""One rank as a child of the local launcher: `python -m trainer.launchers.child CONFIG_YAML WORK`.

Signals that ask for a stop are kept from the first moment, long before PyTorch is imported, and a
launcher that goes away (even by SIGKILL) takes its ranks with it: its end of a pipe closes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from trainer.launchers.ranks import failure_recorded
from trainer.signals import keep, release

LAUNCHER_FD = "TRAINER_LAUNCHER_FD"


def main() -> None:
    """Run this rank to its end."""
    asked: list[int] = []
    keep(asked)
    release()
    threading.Thread(target=_end_with_launcher, args=(int(os.environ.pop(LAUNCHER_FD)),), daemon=True).start()
    with failure_recorded(int(os.environ["RANK"])):
        from trainer.config import load
        from trainer.distributed import Place
        from trainer.launchers.base import load_work

        load_work(sys.argv[2])(load(Path(sys.argv[1])), Place.from_env(), asked)


def _end_with_launcher(fd: int) -> None:
    os.read(fd, 1)  # nothing is ever written: it returns when the launcher has gone
    os.killpg(0, signal.SIGKILL)  # with whatever this rank has started: it leads its own process group


if __name__ == "__main__":
    main()
