"""What the commands of `python -m trainer.data` share: options beside a run's overrides, and a table to work on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from trainer import own_options
from trainer.config import Config
from trainer.data.tabular import Tabular
from trainer.errors import ConfigError

T = TypeVar("T")


def run(arguments: Sequence[str], command: str, kind: type[T], help_text: str, work: Callable[[Tabular, T], int]) -> int:
    """`work(the table's knobs, options)` gives the exit status; options are written COMMAND.key=value."""
    status = 0

    def task(config: Config, options: T) -> None:
        nonlocal status
        if not isinstance(config.data, Tabular):
            raise ConfigError(f"data: python -m trainer.data {command} works on tables; give data=tabular data.path=FILE data.target=COLUMN")
        status = work(config.data.resolved(), options)

    def split(given: Sequence[str]) -> tuple[T, list[str]]:
        return own_options.split(given, command, kind)

    return own_options.run(arguments, f"data {command}", help_text, "it works on one table; start it once for each", split, task) or status
