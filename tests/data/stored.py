"""Data that is a file of float32 rows, as it is, or one for each split."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data.arrays import ArraySamples, map_rows
from trainer.data.reduce import Reducible


@dataclass(kw_only=True)
class Stored(Reducible):
    path: str
    eval_path: str | None = None
    features: int

    def open_whole(self, split):
        path = self.eval_path if split == "eval" and self.eval_path else self.path
        rows = map_rows(Path(path), "<f4", [self.features])
        spec = {"features": self.features, "feature_names": [f"x{i}" for i in range(self.features)]}
        return ArraySamples("features", rows, np.zeros(len(rows), "<f4"), spec, path, {})
