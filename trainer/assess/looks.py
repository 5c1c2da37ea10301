"""What gradient boosting decides by, to be set beside what the network does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.data.table_samples import Feature
from trainer.explain.trees import tree_attributions

PEOPLE, BACKGROUND = 300, 50


def looked_at(estimator: Any, features: np.ndarray, training: np.ndarray, columns: Sequence[Feature]) -> dict[str, float]:
    """For each column the mean absolute Shapley value (log-odds) of its features together, of up to `PEOPLE` rows, at even distances.

    features: (people, features) what is decided; training: (people, features), of which absent columns are taken; columns: of each feature.
    """
    names = list(dict.fromkeys(feature.column for feature in columns))
    unit_of = np.array([names.index(feature.column) for feature in columns])
    values, _ = tree_attributions(estimator, _some(features, PEOPLE), _some(training, BACKGROUND), unit_of, names)
    return dict(zip(names, np.abs(values).mean(0).tolist(), strict=True))


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    kept = min(len(rows), most)
    return rows[np.arange(kept) * len(rows) // kept]
