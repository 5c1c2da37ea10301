"""The explanations of a run, from its files: what is refused before any work, and the lines for a terminal. Nothing here imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import ConfigError
from trainer.explain.base import Kind
from trainer.units import aligned

if TYPE_CHECKING:
    from trainer.config import Config

EXPLAIN = "trainer.explain.worker:explain"
EXPLAINED, FIGURES = "explain", "explain.json"  # beside NAME.jsonl, the attributions of each explainer
MOST = 10  # units of a table in a terminal


def check(config: Config) -> None:
    """Refuse explainers that do not fit the data.

    Raises:
        ConfigError: names the explainer and what it is for.
    """
    kind = kind_of(config.data.open("eval").spec)
    for part in config.explain.values():
        part.check(kind)


def kind_of(spec: Mapping[str, Any]) -> Kind:
    """What samples of this `spec` are (see `Samples.spec`).

    Raises:
        ConfigError: nothing that can be explained.
    """
    for key, kind in (("features", Kind.tabular), ("seq_len", Kind.text), ("channels", Kind.image)):
        if key in spec:
            return kind
    raise ConfigError(f"explain: data of this form cannot be explained (it tells {', '.join(spec)}; features, seq_len or channels were looked for)")


def _importances(found: Mapping[str, Any]) -> list[str]:
    metrics = list(found["worse"])
    ranked = sorted(found["worse"]["loss"], key=lambda unit: -found["worse"]["loss"][unit]["mean"])[:MOST]
    table = [(f"  {unit}", *(f"{found['worse'][metric][unit]['mean']:.4g}" for metric in metrics)) for unit in ranked]
    return aligned([("  worse when it is shuffled", *metrics), *table], {0}).splitlines()


def explanations(run_dir: Path) -> dict[str, Any]:
    """What explain.json of `run_dir` says; nothing where nothing was explained."""
    path = run_dir / EXPLAINED / FIGURES
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def lines(run_dir: Path) -> list[str]:
    """For each explainer the units that matter most, and its checks that failed."""
    found = explanations(run_dir)
    said = [f"explained  {found['samples']:,} decisions: {found['decision']}"]
    for name, one in found["explainers"].items():
        said.append(name)
        if "importance" in one:
            said += _importances(one["importance"])
            continue
        ranked = sorted(one["global"].items(), key=lambda item: -item[1]["mean_abs"])[:MOST]
        if ranked:
            head = ("  of all decisions", "mean |value|", "mean value")
            said += aligned([head, *((f"  {unit}", f"{at['mean_abs']:.4g}", f"{at['mean']:+.4g}") for unit, at in ranked)], {0}).splitlines()
        if judged := [check for check in one["checks"] if check["passed"] is not None]:
            failed = [check for check in judged if not check["passed"]]
            said.append(f"  checks: {len(judged) - len(failed)} of {len(judged)} passed")
            said += [f"  FAILED {check['name']}: {check['meaning']}" for check in failed]
    return [*said, f"explanations {run_dir / EXPLAINED}"]
