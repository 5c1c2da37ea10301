"""The table that a terminal shows."""

from __future__ import annotations

from trainer.prove.cells import Row

SIGNS = {"equal": "✓", "different": "✗", "failed": "!", "inconclusive": "?", "refused": "–", "not installed": "–"}


def number(value: float, same_bits: bool) -> str:
    """A relative difference, or the word for none at all."""
    return "bit-equal" if same_bits else f"{value:.1e}" if value else "0"


def columns(optimizers: list[str]) -> list[str]:
    """Heads of the table."""
    return ["strategy", "ranks", "loss", "grad norm", *(f"params {name}" for name in optimizers), "verdict", "seconds"]


def cells(row: Row, optimizers: list[str]) -> list[str]:
    """One row; differences are the greatest over steps, tensors and (loss, norm) optimizers."""
    verdict = f"{SIGNS[row.status]} {row.status}"
    if not row.optimizers:
        return [row.strategy, str(row.ranks), "", "", *("" for _ in optimizers), verdict, f"{row.seconds:.1f}" if row.seconds else ""]
    every = row.optimizers.values()
    same = all(apart.bit_equal for apart in every)
    return [
        row.strategy,
        str(row.ranks),
        number(max(apart.loss for apart in every), same),
        number(max(apart.grad_norm for apart in every), same),
        *(number(row.optimizers[name].parameters, row.optimizers[name].bit_equal) for name in optimizers),
        verdict,
        f"{row.seconds:.1f}",
    ]


def text(rows: list[Row], optimizers: list[str]) -> str:
    """The whole table; below it, why rows that are not equal are not."""
    lines = [columns(optimizers), *(cells(row, optimizers) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    left = {0, len(lines[0]) - 2}
    said = [
        "  ".join(item.ljust(width) if i in left else item.rjust(width) for i, (item, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    ]
    return "\n".join([said[0], "─" * max(map(len, said)), *said[1:]])


def notes(rows: list[Row]) -> list[str]:
    """Why strategies were not run."""
    return [f"{row.strategy} on {row.ranks}: {row.status}: {row.reason}" for row in rows if row.status in ("refused", "not installed")]
