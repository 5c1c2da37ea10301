"""The compressions of one run: what compress.json of each says. Nothing here imports torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import config as configs
from trainer.errors import ConfigError

COMPRESSED = "compressed"
COMPRESS, INDEX = "compress.json", "index.html"
PICTURES = "pictures.json"


@dataclass(frozen=True)
class Chain:
    """One compressed model of a run."""

    name: str
    """Of its directory."""
    found: Mapping[str, Any]
    """Its compress.json."""

    def title(self) -> str:
        """Its methods in order, each with the knobs that are not as by default."""
        return ", then ".join(_method(name, part) for name, part in self.found["chain"].items())

    def quality(self, when: str = "after") -> float:
        return self.found[when]["metrics"][self.found["quality"]]["value"]


def chains(run_dir: Path) -> list[Chain]:
    """All in `run_dir`, by name."""
    paths = sorted((run_dir / COMPRESSED).glob(f"*/{COMPRESS}"))
    return [Chain(path.parent.name, json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def front(points: Sequence[tuple[float, ...]]) -> list[bool]:
    """Whether each point is on the Pareto front: none is at least as low in all and lower in one."""
    return [not any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points) for point in points]


def _method(name: str, part: Mapping[str, Any]) -> str:
    try:
        usual = dict(_flat(configs.to_plain(configs.part_class(part[configs.TARGET])())))
    except (ConfigError, TypeError):  # of a package that is not installed here, or with a knob that has no default
        usual = {}
    changed = (f"{key}={_value(value)}" for key, value in _flat(part) if key != configs.TARGET and (key not in usual or usual[key] != value))
    return " ".join([name, *changed])


def _flat(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in plain.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _value(value: Any) -> str:
    return "null" if value is None else f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
