"""`run_dir`/ranks/rank-R.json: where a rank is, as it says itself. Nothing here imports torch."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainer.writing import write_whole

DIRECTORY = "ranks"
DIAGNOSIS = "diagnosis.txt"
STACKS_SIGNAL = signal.SIGUSR2
READ_ATTEMPTS = 2

UNEQUAL_SIZES = ("gather", "scatter", "alltoall", "alltoall_base", "all_to_all")
"""Collectives to which the ranks may bring different sizes, or some of them nothing."""


@dataclass(frozen=True)
class Collective:
    """One collective that a rank has entered."""

    group: str
    """The process group, as PyTorch counts them on each rank."""
    number: int
    """From 1 on, within its group: what one rank enters as its n-th meets what every other enters as its n-th."""
    name: str
    sizes: list[list[int]]
    """Shapes of its inputs."""
    left: bool
    """Whether it is over on this rank."""

    def __str__(self) -> str:
        return f"{self.name} {' '.join(map(str, self.sizes))}".strip()

    @property
    def kind(self) -> str:
        """The same on all ranks of a collective: its name, and its sizes where every rank gives the same."""
        return self.name if self.name in UNEQUAL_SIZES else str(self)


@dataclass
class RankRecord:
    """What a rank last wrote. Times are its own clock's, in seconds since 1970."""

    rank: int
    world_size: int
    host: str
    machine: str
    """Where `pid` means its process: see `trainer.run_lock.machine`. Containers may have one host name."""
    pid: int
    process_start: int | None
    """Clock ticks after boot at which its process began, which with `pid` names it for good; None where the system does not say."""
    started: float
    interval: float
    """Seconds between two writes."""
    written: float = 0.0
    changed: float = 0.0
    """When it last came further: a step, a phase, a micro-batch, a collective."""
    step: int = 0
    phase: str = ""
    step_seconds: float = 0.0
    """Mean time of a step so far; 0 before the second."""
    entered: dict[str, int] = field(default_factory=dict)
    """Number of the last collective entered, by group."""
    left: dict[str, int] = field(default_factory=dict)
    """Number of the last collective that is over, by group."""
    recent: list[Collective] = field(default_factory=list)
    """The last collectives, oldest first; filled when it has stood still for a while."""
    oom_kills: int | None = None
    """How often the kernel had ended a process of this container for lack of memory when the rank began."""
    ended: str | None = None
    """How it ended: finished, stopped or failed; None while it runs, or where it was killed."""
    error: str | None = None
    """With `ended` failed: the error."""

    @property
    def pending(self) -> list[str]:
        """Groups in which it has entered a collective and not left it."""
        return [group for group, number in self.entered.items() if number > self.left.get(group, 0)]


def directory(run_dir: Path) -> Path:
    """Where the ranks of a run write."""
    return run_dir / DIRECTORY


def live_path(run_dir: Path, rank: int) -> Path:
    """Where a rank's `Whereabouts` live."""
    return directory(run_dir) / f"rank-{rank}.live"


def stacks_path(run_dir: Path, rank: int) -> Path:
    """Where a rank's stacks are written."""
    return directory(run_dir) / f"rank-{rank}.stacks"


def write(run_dir: Path, record: RankRecord) -> None:
    """Write a rank's record, whole or not at all.

    Raises:
        OSError: as of writing a file.
    """
    write_whole(directory(run_dir) / f"rank-{record.rank}.json", json.dumps(asdict(record)), sync=False)


def read(run_dir: Path) -> dict[int, RankRecord]:
    """The records of a run by rank; those that cannot be read, and of ranks that the newest start does not have, are left out."""
    found = [record for path in directory(run_dir).glob("rank-*.json") if (record := _read(path)) is not None]
    if not found:
        return {}
    newest = max(found, key=lambda record: record.started)
    return {record.rank: record for record in sorted(found, key=lambda record: record.rank) if record.rank < newest.world_size}


def _read(path: Path) -> RankRecord | None:
    for _ in range(READ_ATTEMPTS):
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return RankRecord(**{**values, "recent": [Collective(**item) for item in values["recent"]]})
        except OSError:  # removed since it was listed; or replaced since it was opened, as NFS says it (ESTALE)
            continue
        # Of an earlier start, which had more ranks: emptied by a power cut, or of another version. No run may end for that.
        except (ValueError, KeyError, TypeError):
            break
    return None


def process_start(pid: int) -> int | None:
    """Clock ticks after boot at which process `pid` began; None where there is no such process, or no /proc."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def process_state(pid: int) -> str | None:
    """The letter of /proc for a process: R, S, D, T (stopped), Z (dead) ...; None where there is no such process, or no /proc."""
    fields = _stat(pid)
    return fields[0] if fields else None


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def oom_kills() -> int | None:
    """How often the kernel has ended a process of this container for lack of memory; None where it does not say."""
    try:
        lines = Path("/sys/fs/cgroup/memory.events").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
