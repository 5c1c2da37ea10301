"""python -m trainer.data profile data=... [key=value ...]: the curse of dimensionality on one's own data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import cli
from trainer.data.reduce import Reducible
from trainer.errors import ConfigError, RunError, missing_extra
from trainer.writing import write_whole

if TYPE_CHECKING:
    import numpy as np

    from trainer.config import Config
    from trainer.data.base import Data, Samples

PROFILE, PAGE = "profile.json", "profile.html"
NEIGHBOUR_ROWS, DISTANCE_ROWS, MODEL_ROWS = 4000, 1000, 2000
"""Of the training split, drawn at random: rows compared by nearest neighbours, by all distances, and for the quick models."""
ENOUGH = 0.95
HELP = """Measure the dimensions of the training split of data=: explained variance, intrinsic dimension, concentration of distances, rows per dimension,
and the task's metric against the number of components kept. Writes profile.json and profile.html into run_dir (default: runs/profile-HASH)."""


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    given = any(argument.lstrip("+").startswith("run_dir=") for argument in arguments)

    def task(config: Config) -> None:
        from trainer.config import digest, to_plain

        assert config.run_dir is not None
        place = Path(config.run_dir) if given else Path("runs") / f"profile-{digest(to_plain(config.data))}"
        print("\n".join(write(config.data, place)))

    return cli.main(task, arguments, command="python -m trainer.data profile", help_text=HELP)


def write(data: Data, place: Path) -> list[str]:
    """Profile `data`, write that into `place`, and return the lines for a terminal.

    Raises:
        ConfigError: the data has no rows of features, or none that vary.
        RunError: it cannot be written.
    """
    from trainer.data.profile_page import page

    found = profile(data)
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_whole(place / PROFILE, json.dumps(found, indent=1))
        write_whole(place / PAGE, page(place.name, found))
    except OSError as error:
        raise RunError(f"{place}: the profile cannot be written: {error.strerror or error}; give another run_dir=") from error
    return [*lines(found), f"report      {place / PAGE}"]


def profile(data: Data) -> dict[str, Any]:
    """All figures, as plain values.

    Raises:
        ConfigError: as `write`.
    """

    from trainer.config import to_plain
    from trainer.data.against_components import against_components
    from trainer.data.curse import concentration, most_rows, two_nn
    from trainer.data.decompose import spectrum
    from trainer.data.moments import Rows
    from trainer.data.ranks import Alone
    from trainer.data.reduced import names

    if not isinstance(data, Reducible):
        raise ConfigError(f"data: {type(data).__name__} has no rows of features to profile; choose data=tabular, images or synthetic")
    if find_spec("sklearn") is None:
        raise missing_extra("scikit-learn", "tabular", "python -m trainer.data profile")
    samples = data.open_whole("train")
    rows = Rows(samples, names(samples), Alone())
    rows.check_finite()
    shares, variances = spectrum(rows)
    if not variances.any():
        raise ConfigError(f"data: all {len(rows.names)} features are constant over the {len(samples)} rows of the training split; there is nothing to profile")
    features = len(rows.names)
    near, _ = drawn(samples, most_rows(features, NEIGHBOUR_ROWS))
    far, _ = drawn(samples, most_rows(features, DISTANCE_ROWS))
    return {
        "data": to_plain(data),
        "source": samples.describe().get("source"),
        "rows": len(samples),
        "features": features,
        "constant": [name for name, variance in zip(rows.names, variances.tolist(), strict=True) if variance == 0],
        "shares": shares.tolist(),
        "components_for": {str(share): enough(shares, share) for share in (0.8, 0.9, ENOUGH, 0.99)},
        "intrinsic": two_nn(near),
        "distances": concentration(far),
        "against": against_components(*drawn(samples, MODEL_ROWS)),
        "reduce": None if data.reduce is None else data.open("train").reduction.describe(),  # type: ignore[union-attr]
    }


def enough(shares: np.ndarray, share: float) -> int | None:
    """How many components explain so much of the variance; None: more than were looked for."""
    import numpy as np

    found = np.flatnonzero(np.cumsum(shares) >= share - 1e-12)
    return int(found[0]) + 1 if len(found) else None


def drawn(samples: Samples, most: int) -> tuple[np.ndarray, np.ndarray]:
    """((rows, features) float64, labels) of at most `most` samples, drawn by a fixed seed."""
    import numpy as np

    chosen = np.sort(np.random.default_rng(0).permutation(len(samples))[:most])
    parts = [samples.flat(index, index + 1) for index in chosen.tolist()]
    return np.concatenate([row for row, _ in parts]).astype(np.float64), np.concatenate([label for _, label in parts])


def lines(found: dict[str, Any]) -> list[str]:
    """What was found, for a terminal."""
    rows, features, constant = found["rows"], found["features"], len(found["constant"])
    said = [
        f"data        {rows:,} rows of {features:,} features, {rows / features:.3g} rows a feature"
        + (f"; {constant} features are constant" if constant else "")
    ]
    few, many = found["components_for"]["0.8"], found["components_for"][str(ENOUGH)]
    most = f"more than {len(found['shares'])}"
    said.append(f"PCA         {few or most} components explain 80 % of the variance, {many or most} explain 95 %")
    if (nn := found["intrinsic"]) is None:
        said.append("TwoNN       no intrinsic dimension: fewer than 10 rows differ")
    else:
        twins = f"; {nn['duplicates']:,} duplicates left out" if nn["duplicates"] else ""
        said.append(
            f"TwoNN       intrinsic dimension {nn['dimension']:.1f} ({nn['low']:.1f} to {nn['high']:.1f}), {rows / nn['dimension']:.3g} rows for each{twins}"
        )
    if (far := found["distances"]) is not None:
        normal = far["gaussian"]
        said.append(
            f"distances   relative contrast {far['relative_contrast']:.2f}, variation {far['variation']:.3f}; of {far['features']:,} independent normal ones "
            f"{normal['relative_contrast']:.2f}, {normal['variation']:.3f}"
        )
    said += against_lines(found["against"])
    if found["reduce"]:
        said.append(f"reduced     {found['reduce']}")
    return said


def against_lines(against: dict[str, Any]) -> list[str]:
    """The metric of each quick model with the fewest components that are as good as the best, within a standard error, and with all."""
    if "reason" in against:
        return [f"metric      none: {against['reason']}"]
    said = []
    for name, scores in against["models"].items():
        few = fewest(scores["mean"], scores["deviation"], against["folds"])
        shown = f"{scores['mean'][few]:.3f} with {against['components'][few]} components, {scores['mean'][-1]:.3f} with {against['components'][-1]}"
        said.append(f"{against['metric']:<11} {name}: {shown}")
    return said


def fewest(means: list[float], deviations: list[float], folds: int) -> int:
    """Place of the first of `means` that is within a standard error of the best (Breiman et al. 1984)."""
    best = max(range(len(means)), key=lambda place: means[place])
    least = means[best] - deviations[best] / folds**0.5
    return next(place for place, mean in enumerate(means) if mean >= least)
