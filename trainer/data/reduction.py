"""A fitted reduction of dimension: a linear map from a row of features to a row of components, and back. No torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

PREFIX = {"pca": "pc", "svd": "sv", "random_projection": "rp"}


@dataclass(frozen=True, eq=False)
class Reduction:
    """`apply(x) = (x - mean) @ components.T`, with what was fitted on the training split. `samples.reduction` of reduced data is one."""

    method: str
    """pca, svd or random_projection."""
    names: tuple[str, ...]
    """Of the original features, as the data gives them (after standardising and encoding): what a model without reduction is given."""
    mean: np.ndarray
    """(features,) float64; zeros but for pca."""
    components: np.ndarray
    """(components, features) float64. Rows are orthonormal for pca and svd; the entry of each that is largest in size is positive."""
    singular_values: np.ndarray
    """(components,) float64, of the training split (centred for pca); none for random_projection."""
    shares: np.ndarray
    """(components,) float64: the share of the training split's variance that each component has; none for random_projection."""
    key: str = ""
    """What decided the fit: the training split and the knobs (see `trainer.data.reduced.fit_key`)."""

    def __len__(self) -> int:
        """Number of components."""
        return len(self.components)

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """(n, features) to (n, components), float64."""
        return (np.asarray(rows, np.float64) - self.mean) @ self.components.T

    def inverse(self, reduced: np.ndarray) -> np.ndarray:
        """(n, components) to the nearest rows (n, features) that `apply` takes there, float64: what the reduction has left of the originals."""
        back = np.linalg.pinv(self.components).T if self.method == "random_projection" else self.components
        return np.asarray(reduced, np.float64) @ back + self.mean

    def feature_names(self) -> list[str]:
        """Names of the components: pc1, pc2, ..."""
        return [f"{PREFIX[self.method]}{number}" for number in range(1, len(self) + 1)]

    def describe(self) -> str:
        """In words, for the report."""
        share = f", {self.shares.sum():.1%} of the variance" if len(self.shares) else ""
        return f"{self.method}: {len(self)} of {len(self.names)} features{share}"

    def arrays(self) -> dict[str, np.ndarray]:
        """What was fitted, by name: with `method` and `names` it is the whole reduction."""
        return {name: np.ascontiguousarray(getattr(self, name), "<f8") for name in ARRAYS}

    def facts(self) -> dict[str, Any]:
        """The rest, as plain values, and the digest of it all."""
        return {"method": self.method, "names": list(self.names), "key": self.key, "sha256": self.digest()}

    @classmethod
    def restored(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Reduction:
        """The reduction that gave these `facts` and `arrays`; an array that was empty may be missing."""
        mean, components, singular_values, shares = (arrays.get(name, np.zeros(0)) for name in ARRAYS)
        return cls(facts["method"], tuple(facts["names"]), mean, components, singular_values, shares, facts["key"])

    def digest(self) -> str:
        """sha256 (hex) of the whole."""
        found = hashlib.sha256(repr((self.method, self.names)).encode())
        for array in self.arrays().values():
            found.update(array.tobytes())
        return found.hexdigest()


ARRAYS = ("mean", "components", "singular_values", "shares")
