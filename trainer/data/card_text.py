"""A card of sections as Markdown, and as one self-contained page in the style of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from trainer.report.style import STYLE

_MORE_STYLE = """
td.error { color: var(--bad); font-weight: 600; } td.ok { color: var(--good); font-weight: 600; } td.warning { color: var(--eval); font-weight: 600; }
thead th { color: var(--quiet); font-weight: 600; } tbody td:first-child { color: var(--quiet); } td { white-space: pre-line; }
"""


@dataclass(frozen=True)
class Grid:
    """A table: what stands over its columns (nothing where all is empty), and rows of the same length."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    states: int | None = None
    """The column that holds ok, warning or error, if there is one."""


@dataclass(frozen=True)
class Section:
    """A heading, a table, and a sentence under it."""

    title: str
    grid: Grid
    note: str = ""


def markdown(title: str, sections: Sequence[Section]) -> str:
    """As GitHub's Markdown."""
    parts = [f"# {title}"]
    for section in sections:
        lines = [section.grid.head, ["---"] * len(section.grid.head), *section.grid.rows]
        table = "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)
        parts += [f"## {section.title}", table, *([section.note] if section.note else [])]
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    """A cell ends at a bar or a new line, and what looks like markup is none."""
    plain = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("`", "\\`").replace("_", "\\_")
    return plain.replace("\n", "<br>")


def html(title: str, sections: Sequence[Section]) -> str:
    """As one file."""
    parts = [f"<h1>{escape(title)}</h1>"]
    for section in sections:
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in section.grid.head) if any(section.grid.head) else ""
        rows = "".join("<tr>" + "".join(_td(cell, place == section.grid.states) for place, cell in enumerate(row)) + "</tr>" for row in section.grid.rows)
        table = f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{rows}</tbody></table>"
        note = f'<p class="lead">{escape(section.note)}</p>' if section.note else ""
        parts.append(f'<h2>{escape(section.title)}</h2><div class="scroll">{table}</div>{note}')
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{STYLE}{_MORE_STYLE}</style></head>\n'
        f"<body><main>{chr(10).join(parts)}</main></body></html>\n"
    )


def _td(cell: str, is_state: bool) -> str:
    return f'<td class="{escape(cell)}">{escape(cell)}</td>' if is_state else f"<td>{escape(cell)}</td>"
