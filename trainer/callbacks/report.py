"""The report at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.callbacks.record import REPORT
from trainer.state import Callback
from trainer.writing import writing


class Report(Callback):
    """Writes report.html when a run finishes or stops; it reads what the callbacks before it wrote.

    `python -m trainer.report RUN_DIR` writes it for a run that failed.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def on_finish(self, status: str, facts: Mapping[str, Any]) -> None:
        from trainer.report.page import write

        with writing(self._run_dir / REPORT):
            write(self._run_dir)
