"""Rows to be reduced, and fits on one process or on every rank of several. What ranks import: no scikit-learn."""

import numpy as np
import pytest
import torch

from trainer.data.arrays import ArraySamples
from trainer.data.decompose import WIDE, fit
from trainer.data.moments import Rows, moments
from trainer.data.ranks import Alone, Together
from trainer.data.reduce import Reduce
from trainer.data.synthetic import Synthetic, SyntheticKind
from trainer.errors import ConfigError

CASES = [(WIDE, {"reduce": Reduce.pca, "variance": 0.9}), (8, {"reduce": Reduce.svd, "components": 5})]
"""(features up to which a fit is exact, knobs)"""


def matrix(rows, features):
    """(rows, features) float64 of falling variances, turned, and away from the origin."""
    random = np.random.default_rng(features)
    turn = np.linalg.qr(random.normal(size=(features, features)))[0]
    return random.normal(size=(rows, features)) * 0.8 ** np.arange(features) @ turn + random.normal(size=features)


def samples(values):
    return ArraySamples("features", values, np.zeros(len(values), np.int64), {"features": values.shape[1]}, "", {})


def fitted(values, wide=WIDE, by=None, **knobs):
    data = Synthetic(kind=SyntheticKind.tabular, **knobs)
    data.validate()
    return fit(Rows(samples(values), [f"x{i}" for i in range(values.shape[1])], by or Alone()), data, wide)


def fitted_by_all(values):
    """On a rank: (the scatter matrix, the arrays of the reductions of `CASES`)."""
    by = Together(torch.device("cpu"))
    found = [fitted(values, wide, by, **knobs).arrays() for wide, knobs in CASES]
    return moments(Rows(samples(values), ["x"] * values.shape[1], by), full=True).scatter, found


def refused_by_all(values):
    """On a rank: what is said."""
    with pytest.raises(ConfigError) as caught:
        fitted(values, by=Together(torch.device("cpu")), reduce=Reduce.pca, components=2)
    return str(caught.value)
