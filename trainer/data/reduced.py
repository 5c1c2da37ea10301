"""Samples of reduced rows, prepared once: what is fitted on the training split, and the reduced rows of each split, memory-mapped."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.arrays import ArraySamples, map_rows
from trainer.data.base import Samples
from trainer.data.cache import cache_root, cached, digest, whole
from trainer.data.decompose import fit
from trainer.data.moments import CHUNK, Rows, not_finite
from trainer.data.ranks import Alone
from trainer.data.reduce import Reducible
from trainer.data.reduction import ARRAYS, Reduction
from trainer.errors import ConfigError

FORMAT = 1  # of the files in the cache
FITTED = "reduction"  # kind of cache


class ReducedSamples(ArraySamples):
    """A split of which each sample has its components as `features`."""

    def __init__(self, original: Samples, reduction: Reduction, rows: np.ndarray, labels: np.ndarray) -> None:
        spec = {name: original.spec[name] for name in ("classes",) if name in original.spec}
        spec |= {"features": len(reduction), "feature_names": reduction.feature_names()}
        facts = {name: value for name, value in original.describe().items() if name not in (*original.spec, "samples", "fingerprint")}
        if "lineage" in facts:
            facts["lineage"] = {**facts["lineage"], "transforms": [*facts["lineage"]["transforms"], reduction.describe()]}
        super().__init__("features", rows, labels, spec, digest([original.fingerprint, reduction.key]), {**facts, "reduce": reduction.describe()})
        self._original = original
        self.reduction = reduction
        self.preparation = original.preparation

    @property
    def original(self) -> Samples:
        return self._original


def open_reduced(data: Reducible, split: str) -> ReducedSamples:
    """Split `split` of `data`, reduced; fitted, and written, where it has not been before.

    Raises:
        ConfigError: it cannot be fitted; see `trainer.data.decompose.fit`.
    """
    training = data.open_whole("train")
    original = training if split == "train" else data.open_whole(split)
    key = fit_key(data, training)
    place, index = cached(FITTED, key, lambda place: write(_fitted(data, training, Alone()), place))
    reduction = read(place)
    rows_key = digest([FORMAT, original.fingerprint, index["sha256"]])
    place, index = cached("reduced", rows_key, lambda place: _write_rows(original, reduction, split, place))
    rows = map_rows(place / "rows", "<f4", [len(reduction)])
    return ReducedSamples(original, reduction, rows, map_rows(place / "labels", index["labels"], ()))


def fit_together(data: Reducible, ranks: Alone) -> None:
    """Fit by all ranks, unless every one finds the same fit on its disk. A collective; `open` then finds it.

    Raises:
        ConfigError: on all ranks; see `trainer.data.decompose.fit`.
    """
    training = data.open_whole("train")
    place = cache_root() / FITTED / fit_key(data, training)[:32]
    there = ranks.every(_digest_at(place))
    if there[0] is not None and all(each == there[0] for each in there):
        return
    have(_fitted(data, training, ranks))


def have(reduction: Reduction) -> None:
    """Put a reduction that was fitted before (by all ranks, or for a checkpoint) where `open` looks for one of its `key`; another there goes."""
    wanted = reduction.digest()
    whole(cache_root() / FITTED / reduction.key[:32], lambda place: write(reduction, place), lambda index: index["sha256"] == wanted)


def fit_key(data: Reducible, training: Samples) -> str:
    """What decides the fit, but for rounding: the training split and the knobs."""
    assert data.reduce is not None
    return digest([FORMAT, training.fingerprint, data.reduce.name, data.components, data.variance, data.reduce_seed])


def write(reduction: Reduction, place: Path) -> dict[str, Any]:
    """Write the files of `reduction`; returns their index."""
    for name, array in reduction.arrays().items():
        np.save(place / f"{name}.npy", array)
    (place / "facts.json").write_text(json.dumps(reduction.facts()), encoding="utf-8")
    return {"files": {path.name: path.stat().st_size for path in place.iterdir()}, "sha256": reduction.digest()}


def read(place: Path) -> Reduction:
    """What `write` wrote."""
    facts = json.loads((place / "facts.json").read_text(encoding="utf-8"))
    return Reduction.restored(facts, {name: np.load(place / f"{name}.npy") for name in ARRAYS})


def _digest_at(place: Path) -> str | None:
    try:
        return json.loads((place / "index.json").read_bytes())["sha256"]
    except (OSError, ValueError):
        return None


def _fitted(data: Reducible, training: Samples, ranks: Alone) -> Reduction:
    return dataclasses.replace(fit(Rows(training, names(training), ranks), data), key=fit_key(data, training))


def names(samples: Samples) -> list[str]:
    """Of what `Samples.flat` gives in a row.

    Raises:
        ConfigError: these are samples of which it gives nothing.
    """
    spec = samples.spec
    if "feature_names" in spec:
        return list(spec["feature_names"])
    if "height" not in spec or "boxes" in spec:
        raise ConfigError(f"data: needs a table or images with a class each, and has {', '.join(sorted(spec))}")
    return [f"c{c}y{y}x{x}" for c in range(spec["channels"]) for y in range(spec["height"]) for x in range(spec["width"])]


def _write_rows(original: Samples, reduction: Reduction, split: str, place: Path) -> dict[str, Any]:
    step = max(1, CHUNK // len(reduction.names))
    with (place / "rows").open("wb") as rows, (place / "labels").open("wb") as labels:
        dtype = original[0]["labels"].dtype.newbyteorder("<")
        for first in range(0, len(original), step):
            chunk, of_chunk = original.flat(first, min(first + step, len(original)))
            if problem := not_finite(chunk, reduction.names, first, split):
                raise ConfigError(problem)
            rows.write(reduction.apply(chunk).astype("<f4").tobytes())
            labels.write(of_chunk.astype(dtype).tobytes())
    return {"files": {path.name: path.stat().st_size for path in place.iterdir()}, "labels": dtype.str}
