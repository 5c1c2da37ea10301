"""Assess a trained model: figures, a threshold, groups, and every decision of the evaluation split."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.assess.bars import boosting, logistic
from trainer.assess.base import Assess
from trainer.assess.check import class_names, default_class
from trainer.assess.fairness import fairness
from trainer.assess.groups import grouped
from trainer.assess.looks import looked_at
from trainer.assess.quality import calibration, exact_ece, quality
from trainer.assess.sure import compared, intervals, nested
from trainer.assess.threshold import Costs, cheapest, cost_curve, outcomes
from trainer.assess.told import ASSESSED, DECISIONS, FIGURES, NEURAL
from trainer.assess.usual import usual
from trainer.config import Config
from trainer.data.base import Samples
from trainer.data.table_samples import TableSamples
from trainer.data.tabular import Tabular
from trainer.errors import ConfigError, RunError
from trainer.posttrain.load import Loaded, load
from trainer.writing import write_whole

ROWS = 4096  # in one forward pass
FLOORED = ("ks", "ece")


def assess(config: Config, run_dir: Path) -> dict[str, Any]:
    """Assess the newest checkpoint of `run_dir` as `config.assess` says, into `run_dir`/assess; returns what assess.json there holds.

    Raises:
        ConfigError: the data is not what the model was trained on.
        RunError: the model gives a probability that is not a number.
    """
    part, loaded = config.assess, load(run_dir)
    assert part is not None
    data = loaded.config.data
    assert isinstance(data, Tabular)
    if data != config.data:
        raise ConfigError("data: is not what the model was trained on; leave data.* as the run has it, or train a model on the other data")
    train, held_out = data.open("train"), data.open("eval")
    table = data.open_whole("eval")  # with the columns that a reduction leaves out
    place = default_class(part, train)
    learned, judged = _spread(len(train), part.training_rows), _spread(len(held_out), config.posttrain.evaluation_samples)
    features, is_bad = _table(train, learned, place)
    others, bad = _table(held_out, judged, place)
    margins = [_margins(loaded, samples, rows, place) for samples, rows in ((train, learned), (held_out, judged))]
    bars = {"gradient boosting": boosting(features, is_bad, others), "logistic regression": logistic(features, is_bad, others)}
    chosen_on = {NEURAL: _probability(margins[0]), **{name: bar.crossed for name, bar in bars.items()}}
    predicted = {NEURAL: _probability(margins[1]), **{name: bar.probability for name, bar in bars.items()}}
    costs = Costs(part.cost_of_default, part.cost_of_refusal)
    thresholds = {name: cheapest(is_bad, probability, costs) for name, probability in chosen_on.items()}
    refused = predicted[NEURAL] >= thresholds[NEURAL]
    columns = table.raw([*dict.fromkeys([*_columns(table), *part.columns()])], judged)
    found = {
        "target": data.target,
        "source": data.path,
        "default_class": class_names(train)[place],
        "training": {"people": len(learned), "of": len(train), "defaults": int(is_bad.sum())},
        "evaluation": {"people": len(judged), "of": len(held_out), "defaults": int(bad.sum())},
        "bars": {name: bar.told for name, bar in bars.items()},
        "models": _models(bad, predicted),
        "training_auc": float(quality(is_bad, chosen_on[NEURAL])(np.ones((1, len(is_bad))))["auc"][0]),
        "costs": {"default": costs.default, "refusal": costs.refusal, "unit": part.unit, "exact_threshold": costs.exact()},
        "decisions": _decisions(bad, predicted, thresholds, costs),
        "cost_curves": {name: cost_curve(bad, probability, costs) for name, probability in predicted.items()},
        "fairness": _fairness(part, columns, refused, bad, predicted[NEURAL]),
        "features": _columns(table),
        "boosting_looks_at": looked_at(bars["gradient boosting"].model, others, features, table.columns) if held_out.reduction is None else {},
        "usual": _usual(data.open_whole("train"), learned, is_bad),
        "knobs": {key: getattr(part, key) for key in ("smallest_group", "largest_difference", "refused", "reasons")},
    }
    (run_dir / ASSESSED).mkdir(exist_ok=True)
    write_whole(run_dir / ASSESSED / DECISIONS, _csv(table, judged, columns, bad, predicted[NEURAL], margins[1], refused))
    write_whole(run_dir / ASSESSED / FIGURES, json.dumps(found, indent=1))
    return found


def _spread(count: int, most: int | None) -> np.ndarray:
    """(rows,) the numbers of at most `most` of `count` rows, at even distances."""
    kept = count if most is None else min(most, count)
    return np.arange(kept) * count // kept


def _table(samples: Samples, rows: np.ndarray, place: int) -> tuple[np.ndarray, np.ndarray]:
    """((rows, features) as the model sees them, (rows,) who defaults)."""
    batch = samples.batch(rows.tolist())
    return batch["features"].numpy(), batch["labels"].numpy() == place


@torch.no_grad()
def _margins(loaded: Loaded, samples: Samples, rows: np.ndarray, place: int) -> np.ndarray:
    """(rows,) fp64 log-odds of default: the difference of the two logits.

    Raises:
        RunError: one is not finite.
    """
    pieces = []
    for part in np.array_split(rows, -(-len(rows) // ROWS)):
        logits = loaded.config.model.outputs(loaded.module, samples.batch(part.tolist())).to(torch.float64)
        pieces.append((logits[:, place] - logits[:, 1 - place]).numpy())
    margins = np.concatenate(pieces)
    if not np.isfinite(margins).all():
        raise RunError(f"assess: the model gives no finite number for {int((~np.isfinite(margins)).sum())} of {len(margins)} rows")
    return margins


def _probability(margin: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -margin))


def _models(bad: np.ndarray, predicted: dict[str, np.ndarray]) -> dict[str, Any]:
    """Of each model its metrics, with their differences from the neural one, and its calibration."""
    statistic = compared({name: quality(bad, probability) for name, probability in predicted.items()})
    floored = [f"{name}/{key}" for name in predicted for key in FLOORED]
    found = nested(intervals(statistic, len(bad), floored))
    return {
        name: {"metrics": found[name], "calibration": calibration(bad, probability), "exact_ece": exact_ece(probability)}
        for name, probability in predicted.items()
    }


def _decisions(bad: np.ndarray, predicted: dict[str, np.ndarray], thresholds: dict[str, float], costs: Costs) -> dict[str, Any]:
    """Of each model its threshold and what comes of it, and how the neural one's cost differs."""
    statistic = compared({name: outcomes(bad, probability >= thresholds[name], costs) for name, probability in predicted.items()})
    found = nested(intervals(statistic, len(bad)))
    return {name: {"threshold": thresholds[name], **found[name]} for name in predicted}


def _columns(samples: TableSamples) -> list[str]:
    """Of the file, that the model's features are made of."""
    return list(dict.fromkeys(feature.column for feature in samples.columns))


def _fairness(part: Assess, columns: dict[str, np.ndarray], refused: np.ndarray, bad: np.ndarray, probability: np.ndarray) -> list[dict[str, Any]]:
    return [
        fairness(name, grouped(name, columns[name], edges), refused, bad, probability, part.smallest_group, part.largest_difference)
        for name, edges in part.columns().items()
    ]


def _usual(train: TableSamples, rows: np.ndarray, is_bad: np.ndarray) -> dict[str, Any]:
    return {name: usual(values, is_bad) for name, values in train.raw(_columns(train), rows).items()}


def _csv(
    samples: TableSamples,
    rows: Sequence[int] | np.ndarray,
    columns: dict[str, np.ndarray],
    bad: np.ndarray,
    probability: np.ndarray,
    margin: np.ndarray,
    refused: np.ndarray,
) -> str:
    """Every decision: which row of the file, what it says, the log-odds and probability of default, and what came of it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sample", "row", "margin", "probability", "refused", "defaulted", *columns])
    cells = zip(*(values.tolist() for values in columns.values()), strict=True)
    for sample, at, value, chance, no, default in zip(rows, cells, margin.tolist(), probability.tolist(), refused.tolist(), bad.tolist(), strict=True):
        writer.writerow(
            [
                int(sample),
                samples.row_number(int(sample)) + 1,
                value,
                chance,
                int(no),
                int(default),
                *("" if cell is None or cell != cell else cell for cell in at),
            ]
        )
    return text.getvalue()
