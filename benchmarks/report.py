"""What a benchmark prints and writes: where it ran, and one table of ratios."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import Interval, verdict
from trainer.callbacks.record import hardware, versions
from trainer.units import size


@dataclass(frozen=True)
class Row:
    """One ratio: this trainer's figure over the other's."""

    case: str
    ours: str
    theirs: str
    ratio: Interval
    limit: float

    def cells(self) -> tuple[str, ...]:
        ratio = f"{self.ratio.median:.3f}"
        interval = f"{self.ratio.low:.3f} to {self.ratio.high:.3f}"
        return self.case, self.ours, self.theirs, ratio, interval, str(self.ratio.count), f"{self.limit:g}", verdict(self.ratio, self.limit)


@dataclass(frozen=True)
class Table:
    """The rows of one benchmark and what they compare."""

    name: str
    title: str
    notes: tuple[str, ...]
    rows: tuple[Row, ...]


HEADINGS = ("case", "trainer", "other", "ratio", "95 % interval", "pairs", "limit", "verdict")
LEGEND = "ratio: trainer / other, median over pairs; met: the whole interval is within the limit, missed: the whole interval is above it, open: neither"


def machine() -> dict[str, object]:
    """The machine, how loaded it is, and the versions that a figure depends on."""
    return {
        **hardware("cpu"),
        "cpu": _cpu(),
        "load": round(os.getloadavg()[0], 2),
        "threads_per_process": os.environ["OMP_NUM_THREADS"],
        "versions": versions("lightning"),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")), platform.machine())


def describe(where: dict[str, object]) -> str:
    """`machine()` in lines for a person."""
    packages = where["versions"]
    assert isinstance(packages, dict)
    return "\n".join(
        [
            f"machine   {where['cpus']} x {where['cpu']}, {size(int(str(where['memory_bytes'])))}, {where['system']}, load {where['load']}",
            f"threads   {where['threads_per_process']} per process",
            "versions  " + ", ".join(f"{name} {version}" for name, version in packages.items()),
        ]
    )


def lay_out(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def show(table: Table) -> str:
    """The table as text."""
    body = lay_out([HEADINGS, *(row.cells() for row in table.rows)])
    return "\n".join(["", f"{table.name}: {table.title}", *(f"  {note}" for note in table.notes), *body, LEGEND])


def write(tables: Sequence[Table], where: dict[str, object], path: Path) -> None:
    """All figures as JSON, with the verdicts."""
    plain = [asdict(table) | {"rows": [asdict(row) | {"verdict": verdict(row.ratio, row.limit)} for row in table.rows]} for table in tables]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": where, "tables": plain}, indent=1), encoding="utf-8")
