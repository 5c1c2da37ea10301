"""The table that a terminal shows."""

from __future__ import annotations

from trainer.prove.cells import Row
from trainer.units import aligned

SIGNS = {"equal": "✓", "different": "✗", "failed": "!", "inconclusive": "?", "refused": "–", "not installed": "–"}


def number(value: float, same_bits: bool) -> str:
    """A relative difference, or the word for none at all."""
    return "bit-equal" if same_bits else f"{value:.1e}" if value else "0"


RESUMED = ("saved", "own resumed", "single's resumed")
"""Its checkpoint against one process's; gone on from its own; gone on from one process's."""


def columns(optimizers: list[str], resumed: bool) -> list[str]:
    """Heads of the table."""
    return ["strategy", "ranks", "loss", "grad norm", *(f"params {name}" for name in optimizers), *(RESUMED if resumed else ()), "verdict", "seconds"]


def cells(row: Row, optimizers: list[str], resumed: bool) -> list[str]:
    """One row; differences are the greatest over steps, tensors and (loss, norm) optimizers."""
    verdict = f"{SIGNS[row.status]} {row.status}"
    empty = ["" for _ in RESUMED if resumed]
    if not row.optimizers:
        return [row.strategy, str(row.ranks), "", "", *("" for _ in optimizers), *empty, verdict, f"{row.seconds:.1f}" if row.seconds else ""]
    every = row.optimizers.values()
    same = all(apart.bit_equal for apart in every)
    return [
        row.strategy,
        str(row.ranks),
        number(max(apart.loss for apart in every), same),
        number(max(apart.grad_norm for apart in every), same),
        *(number(row.optimizers[name].parameters, row.optimizers[name].bit_equal) for name in optimizers),
        *(resumed_cells(row) if row.resumed else empty),
        verdict,
        f"{row.seconds:.1f}",
    ]


def resumed_cells(row: Row) -> list[str]:
    """What saving and resuming left apart: the greatest over tensors and optimizers."""
    every = row.resumed.values()
    crossed = [resumed.crossed for resumed in every]
    return [
        number(max(resumed.saved for resumed in every), False),
        "bit-equal" if all(resumed.own_bit_equal for resumed in every) else "different",
        number(max(apart.parameters for apart in crossed), all(apart.bit_equal for apart in crossed)),
    ]


def text(rows: list[Row], optimizers: list[str]) -> str:
    """The whole table; below it, why rows that are not equal are not."""
    resumed = any(row.resumed for row in rows)
    lines = [columns(optimizers, resumed), *(cells(row, optimizers, resumed) for row in rows)]
    return aligned(lines, {0, len(lines[0]) - 2})


def notes(rows: list[Row]) -> list[str]:
    """Why strategies were not run."""
    return [f"{row.strategy} on {row.ranks}: {row.status}: {row.reason}" for row in rows if row.status in ("refused", "not installed")]
