"""What a cell records of a run: everything that must be the same under every strategy, step by step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

TASK = "task.json"
RESUMED, CROSSED, SAVED = "resumed", "crossed", "saved.json"
SKETCHES, FINAL, INITIAL, TRACE = "sketches.npy", "final.safetensors", "initial.safetensors", "trace.json"


@dataclass
class Step:
    """One optimizer step."""

    loss: float
    grad_norm: float
    """Before clipping."""
    lr: float
    """What the optimizer itself used."""
    samples: list[list[str]]
    """Digests of the samples that each rank was fed, in order."""
    counts: list[int]
    """Valid elements on each rank."""


@dataclass
class Split:
    """A tensor that ranks hold with different values."""

    step: int
    name: str
    ranks: list[int]
    """Those that differ from rank 0."""


@dataclass
class Trace:
    """One run under one optimizer. Index 0 of `digests` and `sketches` is before the first step."""

    names: list[str] = field(default_factory=list)
    """Parameters, tied ones once, and then buffers that belong to the model's state."""
    numel: list[int] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)
    buffers: list[str] = field(default_factory=list)
    hyperparameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of the optimizer, without the rate, for each parameter; under "group 0", "group 1", ... where the
    optimizer holds the parameters in another form."""
    steps: list[Step] = field(default_factory=list)
    digests: list[list[str]] = field(default_factory=list)
    """[step][name]: equal where all bits are."""
    split: Split | None = None
    """The first tensor in which ranks disagreed."""
    sketches: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))
    """(steps + 1, names, sketch.WIDTH)"""

    def save(self, directory: Path) -> None:
        """Write it to `directory`; whole parameters are beside it already."""
        plain = asdict(self)
        np.save(directory / SKETCHES, plain.pop("sketches"))
        (directory / TRACE).write_text(json.dumps(plain), encoding="utf-8")

    @property
    def trainable(self) -> list[bool]:
        """Of each name."""
        still = {*self.frozen, *self.buffers}
        return [name not in still for name in self.names]

    def after(self, base: Trace, step: int) -> Trace:
        """`base` up to `step`, and then this trace, which begins there."""
        order = [base.names.index(name) for name in self.names]
        return replace(
            self,
            steps=base.steps[:step] + self.steps,
            digests=[[row[i] for i in order] for row in base.digests[:step]] + self.digests,
            sketches=np.concatenate([base.sketches[:step, order], self.sketches]),
        )

    @staticmethod
    def load(directory: Path) -> Trace:
        """What `save` wrote."""
        plain = json.loads((directory / TRACE).read_text(encoding="utf-8"))
        plain["steps"] = [Step(**step) for step in plain["steps"]]
        plain["split"] = Split(**plain["split"]) if plain["split"] else None
        return Trace(**plain, sketches=np.load(directory / SKETCHES, allow_pickle=False))
