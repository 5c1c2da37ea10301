"""What a cell is asked to do, as plain values: its ranks may run where another launcher starts them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from trainer.config import to_plain
from trainer.sections import OptimConfig


@dataclass(frozen=True)
class Task:
    """The optimizers to train under, and whether to resume in between."""

    optimizers: dict[str, OptimConfig]
    reference: Path
    """The directory of what one process did."""
    resume_at: int = 0
    """Save after this step, and go on from there, and from what one process saved there; 0: do not."""

    def save(self, path: Path) -> None:
        """Write it."""
        optimizers = {name: to_plain(optim) for name, optim in self.optimizers.items()}
        path.write_text(json.dumps({"optimizers": optimizers, "reference": str(self.reference), "resume_at": self.resume_at}), encoding="utf-8")

    @staticmethod
    def load(path: Path) -> Task:
        """What `save` wrote."""
        plain = json.loads(path.read_text(encoding="utf-8"))
        optimizers = {name: OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(OptimConfig), values)) for name, values in plain["optimizers"].items()}
        return Task(optimizers, Path(plain["reference"]), plain["resume_at"])  # type: ignore[arg-type]
