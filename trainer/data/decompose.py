"""Fits of a linear reduction to streamed rows: exact for up to `WIDE` features, randomised for more. The same on any number of ranks."""

from __future__ import annotations

import numpy as np

from trainer.data.moments import Moments, Rows, moments
from trainer.data.reduce import Reduce, Reducible
from trainer.data.reduction import Reduction
from trainer.errors import ConfigError

WIDE = 2048
"""Features up to which the scatter matrix (32 MiB then) is made and decomposed whole."""
MOST = 1024
"""Components that are looked for, at most, to explain `data.variance` of more features than that."""
PASSES = 16
"""Over the rows, at most, to sharpen one randomised basis."""
TOLERANCE = 1e-8
"""A direction is found when what X^T X leaves of it across is this share of its eigenvalue: its angle is then wrong by that share over the
relative gap to the next eigenvalue."""


def fit(rows: Rows, knobs: Reducible, wide: int = WIDE) -> Reduction:
    """The reduction that `knobs` ask for, of all ranks' `rows`. A collective; every rank gets what rank 0 has.

    Raises:
        ConfigError: rows or features too few, a value that is not finite, nothing that varies.
    """
    assert knobs.reduce is not None
    rows.check_finite()
    _check(rows, knobs)
    features = len(rows.names)
    if knobs.reduce is Reduce.random_projection:
        return _drawn(rows, knobs)
    found = moments(rows, full=features <= wide)
    centred = knobs.reduce is Reduce.pca
    if not found.scatter.any():
        raise ConfigError(f"data.reduce={knobs.reduce.name}: every feature of the training split is constant; leave data.reduce out")
    if features <= wide:
        return rows.ranks.first(lambda: _exact(rows, knobs, found, centred))
    return _randomised(rows, knobs, found, centred)


def _check(rows: Rows, knobs: Reducible) -> None:
    assert knobs.reduce is not None
    name, features, least = knobs.reduce.name, len(rows.names), 1 if knobs.reduce is Reduce.random_projection else 2
    if rows.count < least:
        raise ConfigError(f"data.reduce={name}: needs at least {least} rows to be fitted on, and the training split has {rows.count}")
    if knobs.components is not None and knobs.components > features:
        raise ConfigError(f"data.components={knobs.components}: the data has {features} features; give at most {features}")
    if knobs.components is not None and knobs.reduce is not Reduce.random_projection and knobs.components > rows.count:
        raise ConfigError(f"data.components={knobs.components}: the {rows.count} rows of the training split have no more directions; give at most {rows.count}")


def _drawn(rows: Rows, knobs: Reducible) -> Reduction:
    """Gaussian entries of variance 1 / components: distances are kept in the mean (Johnson and Lindenstrauss 1984; Dasgupta and Gupta 2003)."""
    assert knobs.components is not None
    features, none = len(rows.names), np.zeros(0)
    drawn = np.random.default_rng(knobs.reduce_seed).normal(scale=knobs.components**-0.5, size=(knobs.components, features))
    return Reduction("random_projection", tuple(rows.names), np.zeros(features), drawn, none, none)


def _exact(rows: Rows, knobs: Reducible, found: Moments, centred: bool) -> Reduction:
    square = found.scatter if centred else found.scatter + found.count * np.outer(found.mean, found.mean)
    values, vectors = np.linalg.eigh(square)
    values, components = np.clip(values[::-1], 0, None), vectors.T[::-1]
    spread = values if centred else ((components @ found.scatter) * components).sum(1)
    shares = spread / np.trace(found.scatter)
    return _reduction(rows, knobs, found, values, components, shares, kept(knobs, shares) or len(shares))


def _randomised(rows: Rows, knobs: Reducible, found: Moments, centred: bool) -> Reduction:
    """As many directions as were asked for; for `variance` twice as many, until they explain it."""
    most = min(rows.count, len(rows.names))
    wanted = knobs.components or min(32, most)
    basis = None
    while True:
        values, components, basis = _leading(rows, wanted, found.mean if centred else None, basis)
        shares = (values if centred else _spread(rows, components, found.mean)) / found.scatter.sum()
        count = kept(knobs, shares)
        if count is not None or wanted == most:
            return rows.ranks.first(lambda: _reduction(rows, knobs, found, values, components, shares, count or wanted))  # noqa: B023
        if wanted >= MOST:
            raise ConfigError(
                f"data.variance={knobs.variance}: the first {wanted:,} of {len(rows.names):,} components explain {shares.sum():.1%} of the variance; "
                "give data.components=N, or a lower data.variance"
            )
        wanted = min(2 * wanted, MOST, most)


def spectrum(rows: Rows, wide: int = WIDE, most: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """(shares of the variance of the principal components, falling, at most `most` of more than `wide` features; variance of each feature)."""
    found = moments(rows, full=len(rows.names) <= wide)
    if len(rows.names) <= wide:
        values, diagonal = np.clip(np.linalg.eigvalsh(found.scatter)[::-1], 0, None), np.diag(found.scatter)
    else:
        values, diagonal = _leading(rows, min(most, rows.count), found.mean, None)[0], found.scatter
    return values / max(diagonal.sum(), np.finfo(float).tiny), diagonal / max(found.count, 1)


def kept(knobs: Reducible, shares: np.ndarray) -> int | None:
    """How many components `knobs` keep of those with these `shares` of the variance; None: they need more."""
    if knobs.variance is None:
        return knobs.components
    enough = np.flatnonzero(np.cumsum(shares) >= knobs.variance - 1e-12)
    return int(enough[0]) + 1 if len(enough) else None


def _leading(rows: Rows, wanted: int, mean: np.ndarray | None, start: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leading eigenvalues (wanted,) and eigenvectors (wanted, features) of X^T X, and the basis (features, more) that they were found in.

    Randomised subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4) with Rayleigh-Ritz, on twice as many directions as are
    wanted and 10 more. A pass multiplies by X^T X without making it; neither it nor what is as long as the rows is in memory. `start` is an
    earlier basis to go on from.
    """
    features = len(rows.names)
    width = min(2 * wanted + 10, features, rows.count)
    drawn = np.random.default_rng(0).normal(size=(features, width))
    basis = np.linalg.qr(drawn if start is None else np.concatenate([start, drawn[:, start.shape[1] :]], 1))[0]
    if width == min(features, rows.count):  # all directions that there are: one pass finds their span
        basis = np.linalg.qr(_squared(rows, basis, mean))[0]
    for _ in range(PASSES):
        product = _squared(rows, basis, mean)
        values, within = np.linalg.eigh(basis.T @ product)
        values, within = np.clip(values[::-1], 0, None), within[:, ::-1]
        left = np.linalg.norm((product @ within - basis @ within * values)[:, :wanted], axis=0)
        found = (basis @ within).T[:wanted]
        basis = np.linalg.qr(product)[0]
        if (left <= TOLERANCE * values[:wanted] + 1e-14 * values[0]).all():
            break
    return values[:wanted], found, basis


def _squared(rows: Rows, basis: np.ndarray, mean: np.ndarray | None) -> np.ndarray:
    """X^T X basis, of all ranks. A pass over the rows."""
    summed = np.zeros_like(basis)
    for chunk in rows.chunks():
        if mean is not None:
            chunk -= mean
        summed += chunk.T @ (chunk @ basis)
    return rows.ranks.total(summed)


def _spread(rows: Rows, components: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(components,) sum of squares of the centred rows along each. A pass over the rows."""
    summed = np.zeros(len(components))
    for chunk in rows.chunks():
        summed += (((chunk - mean) @ components.T) ** 2).sum(0)
    return rows.ranks.total(summed)


def _reduction(rows: Rows, knobs: Reducible, found: Moments, values: np.ndarray, components: np.ndarray, shares: np.ndarray, count: int) -> Reduction:
    assert knobs.reduce is not None
    mean = found.mean if knobs.reduce is Reduce.pca else np.zeros(len(rows.names))
    return Reduction(knobs.reduce.name, tuple(rows.names), mean, _signed(components[:count]), np.sqrt(values[:count]), shares[:count])


def _signed(components: np.ndarray) -> np.ndarray:
    """Each with the entry that is largest in size positive; of several as large but for rounding, the first."""
    size = np.abs(components)
    largest = (size >= size.max(1, keepdims=True) * (1 - 1e-6)).argmax(1)
    return components * np.sign(components[np.arange(len(components)), largest])[:, None]
