"""Where a rank is in its run: what it notes as it goes, in plain stores. Nothing here imports torch."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path


class Phase(StrEnum):
    """What a rank is doing."""

    START_UP = "start-up"
    MEETING = "meeting"
    """Waiting for the other ranks to come, on other machines perhaps much later: no stall."""
    DATA = "data"
    """Waiting for the loader."""
    FORWARD_BACKWARD = "forward/backward"
    EXCHANGE = "exchange"
    """Waiting for the small all-reduce of the step."""
    OPTIMIZER = "optimizer step"
    EVALUATION = "evaluation"
    SAVE = "save"
    END = "end"
    """After the last step and evaluation: what is told and written at the end."""


IN_STEP = (Phase.DATA, Phase.FORWARD_BACKWARD, Phase.EXCHANGE, Phase.OPTIMIZER)
_PHASES = list(Phase)
_STEP, _PHASE, _BEATS, _TAKEN = range(4)
_BYTES = 4 * 8


class Whereabouts:
    """Written by the training thread, read by the thread that records it (`trainer.doctor.recorder`).

    With a `path` it lives in that file, mapped into memory: a store is all that it takes, and what was
    stored last is there when the process has been stopped or killed.
    """

    def __init__(self, path: Path | None = None) -> None:
        memory: bytearray | mmap.mmap = bytearray(_BYTES)
        self._settled = False
        self.before = 0
        """The last step that the process had taken that used `path` before."""
        if path is not None:
            with suppress(OSError, ValueError):  # there was none, or a kill or a power cut left it empty
                self.before = _cells(path)[_TAKEN]
            with path.open("w+b") as file:
                file.write(bytes(_BYTES))  # not `truncate`: on a full disk the first store into a file with a hole ends the process (SIGBUS)
                file.flush()
                memory = mmap.mmap(file.fileno(), _BYTES)
        self._cells = memoryview(memory).cast("q")

    @staticmethod
    def read(path: Path) -> tuple[int, Phase]:
        """Step and phase in the file of a process of this machine.

        Raises:
            OSError, ValueError: there is no such file, or it is not one.
        """
        cells = _cells(path)
        if not 0 <= cells[_PHASE] < len(_PHASES):
            raise ValueError(f"{path}: there is no phase {cells[_PHASE]}")
        return cells[_STEP], _PHASES[cells[_PHASE]]

    @property
    def step(self) -> int:
        """The optimizer step that is being taken, or was taken last."""
        return self._cells[_STEP]

    @step.setter
    def step(self, step: int) -> None:
        self._cells[_STEP] = step

    @property
    def phase(self) -> Phase:
        return _PHASES[self._cells[_PHASE]]

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._cells[_PHASE] = _PHASES.index(phase)

    @property
    def beats(self) -> int:
        """Counts what lasts long within a phase: micro-batches, batches of an evaluation."""
        return self._cells[_BEATS]

    def beat(self) -> None:
        """Within a phase it has come further."""
        self._cells[_BEATS] += 1

    def begin(self) -> None:
        """Training begins, at first or once more in this process: the next step compiles and connects, after what is made and read for it."""
        self.phase, self._settled = Phase.START_UP, False

    @property
    def settled(self) -> bool:
        """Whether a step has been taken since `begin`."""
        return self._settled

    def taken(self) -> None:
        """The step is over: the model has moved."""
        self._cells[_TAKEN], self._settled = self.step, True

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Surrounds `phase`. An error leaves it as it is: it says where the rank failed."""
        before, self.phase = self.phase, phase
        yield
        self.phase = before


def _cells(path: Path) -> memoryview:
    """The numbers in the file.

    Raises:
        OSError, ValueError: there is no such file, or it is not one.
    """
    data = path.read_bytes()
    if len(data) != _BYTES:
        raise ValueError(f"{path}: has {len(data)} bytes instead of {_BYTES}")
    return memoryview(data).cast("q")
