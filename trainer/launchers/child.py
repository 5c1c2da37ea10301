"""One rank as a child of the local launcher: `python -m trainer.launchers.child CONFIG_YAML WORK`.

Signals that ask for a stop are kept from the first moment, long before PyTorch is imported, and a
launcher that goes away (even by SIGKILL) takes its ranks with it: its end of a pipe closes.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from trainer.launchers.ranks import failure_recorded
from trainer.signals import keep, release

LAUNCHER_FD = "TRAINER_LAUNCHER_FD"


def main() -> None:
    """Run this rank to its end."""
    asked: list[int] = []
    keep(asked)
    release()
    end_when_closed(int(os.environ.pop(LAUNCHER_FD)))
    with failure_recorded(int(os.environ["RANK"])):
        from trainer.config import load
        from trainer.distributed import Place
        from trainer.launchers.base import load_work

        load_work(sys.argv[2])(load(Path(sys.argv[1])), Place.from_env(), asked)


def end_when_closed(fd: int) -> None:
    """End this process, which leads its process group, and whatever it has started, when the other end of the pipe `fd` is closed."""
    if sys.platform == "linux":
        with suppress(OSError):  # no /proc
            _killed_when_closed(fd)

    def wait() -> None:
        os.read(fd, 1)  # nothing is ever written: it returns when who holds the other end has gone
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()  # also where it has been closed by now


if sys.platform == "linux":

    def _killed_when_closed(fd: int) -> None:
        """Let the kernel do it, also while this process is stopped or something holds Python's lock: no thread of it runs then."""
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)  # `fd` is shared with the other ranks, and so is whom it signals
        fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_ASYNC)


if __name__ == "__main__":
    main()
