"""A part: one dataclass whose fields are its knobs and whose methods do its work.

Strategies, models, data sets and launchers are parts. A part's file imports no torch, so that a
config is checked before anything heavy is loaded; what it needs at run time its methods import.
A part holds no runtime state: memory maps, tokenizers and devices live in what its methods return.
"""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from trainer.errors import ConfigError


@dataclass(kw_only=True)
class Part(ABC):
    """Base of everything that a YAML with a `_target_` may name."""

    def validate(self) -> None:
        """Raise `ConfigError` for values that this part can never work with.

        Called when the config is read, before any process starts and without torch.
        """


@contextmanager
def called(group: str, name: str) -> Iterator[None]:
    """What is wrong with a part of `group`, which calls itself by its own name, is said of the `name` that it was given in the config."""
    try:
        yield
    except ConfigError as error:
        raise type(error)(re.sub(rf"^{group}\.\w+", f"{group}.{name}", str(error))) from None
