"""What each rank does for `explain=`: with the model whole, every world-th sample, its attributions and the evidence for them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trainer import config as configs
from trainer import distributed
from trainer.checkpoint.directory import list_whole
from trainer.config import Config
from trainer.data.progress import progress
from trainer.distributed import Place
from trainer.explain import rows
from trainer.explain.base import Explainer, GlobalExplainer
from trainer.explain.decisions import Decisions, decisions_of
from trainer.explain.evidence import agreement
from trainer.explain.importance import joined
from trainer.explain.run import EXPLAINED, FIGURES, kind_of
from trainer.explain.tabular import TabularDecisions
from trainer.posttrain.chains import COMPRESS
from trainer.posttrain.load import load
from trainer.posttrain.worker import with_ranks
from trainer.writing import write_whole


def explain(config: Config, place: Place, asked: list[int] | None = None, tell: object = None) -> None:
    """Explain what the newest checkpoint of `config.run_dir` decides, as `config.explain` says, into `config.run_dir`/explain.

    Raises:
        ConfigError: an explainer does not fit the model.
    """
    with_ranks(explain_among, config, place, asked)


def explain_among(config: Config, start: Path, run_dir: Path, device: torch.device) -> None:
    """The same, of this rank in a group of ranks."""
    checkpoint, source = distributed.from_rank_0(lambda: (list_whole(run_dir)[-1], original(run_dir)))
    loaded, at = load(checkpoint), config.posttrain
    held_out, train = config.data.open("eval"), config.data.open("train")
    decisions = decisions_of(loaded.config.model, loaded.module.to(device), held_out, train, at)
    for part in config.explain.values():
        part.check_module(decisions.module)
    before = None if source is None else load(source).module.to(device)
    indices = spread(len(held_out), at.explain_samples)
    checked = {indices[number] for number in spread(len(indices), at.evidence_samples)}
    place = run_dir / EXPLAINED
    if dist.get_rank() == 0:
        place.mkdir(exist_ok=True)
        for old in place.glob("*.json*"):  # of an earlier explanation
            old.unlink()
    told: dict[str, Any] = {}
    every: dict[str, list[dict[str, Any]]] = {}
    for name, part in config.explain.items():
        began = time.monotonic()
        if isinstance(part, GlobalExplainer):
            assert isinstance(decisions, TabularDecisions)
            found: dict[str, Any] = {"importance": _importance(part, config, decisions)}
        else:
            assert isinstance(part, Explainer)
            every[name] = _explained(name, part, config, decisions, before, indices, checked)
            found = rows.told(every[name], kind_of(held_out.spec)) if dist.get_rank() == 0 else {}
        told[name] = {"part": configs.to_plain(part), "seconds": time.monotonic() - began, **found}
    if dist.get_rank() == 0:
        for name, lines in every.items():
            write_whole(place / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        write_whole(place / FIGURES, json.dumps(_figures(checkpoint, source, decisions, indices, told, every), indent=1))
    dist.barrier()


def spread(length: int, count: int) -> list[int]:
    """`count` places of `length` at even distances; all where there are no more."""
    count = min(count, length)
    return [number * length // count for number in range(count)]


def original(run_dir: Path) -> Path | None:
    """The checkpoint that the model of `run_dir` was compressed from, where it is still there."""
    path = run_dir / COMPRESS
    if not path.is_file():
        return None
    found = Path(json.loads(path.read_text(encoding="utf-8"))["from"])
    return found if found.is_dir() else None


def _explained(
    name: str, part: Explainer, config: Config, decisions: Decisions, before: nn.Module | None, indices: Sequence[int], checked: set[int]
) -> list[dict[str, Any]]:
    """On rank 0 the rows of all samples `indices`, in order, with the evidence of those `checked`; elsewhere this rank's. A collective."""
    rank, world = dist.get_rank(), dist.get_world_size()
    shown = rank == 0 and config.log.progress
    with progress(f"explain={name}", len(indices), "decisions") if shown else nullcontext(lambda done: None) as advance:
        mine = []
        for index in indices[rank::world]:
            mine.append(rows.of(part, decisions, before, index, config.train.seed, index in checked))
            advance(min(world, len(indices) - world * (len(mine) - 1)))
    return sorted(_gathered(mine), key=lambda row: row["sample"])


def _importance(part: GlobalExplainer, config: Config, decisions: TabularDecisions) -> dict[str, Any]:
    """On rank 0 by column how much each metric gets worse without it. A collective."""
    names, _ = decisions.units
    mine = range(len(names))[dist.get_rank() :: dist.get_world_size()]
    found = _gathered([part.importance(decisions, mine, config.train.seed)] if mine else [])
    if dist.get_rank() != 0:
        return {}
    whole = joined(found)
    worse = {
        metric: {
            names[unit]: {"mean": mean, "deviation": deviation}
            for unit, mean, deviation in zip(whole.units, whole.mean(metric).tolist(), whole.deviation(metric).tolist(), strict=True)
        }
        for metric in whole.worse
    }
    return {"samples": whole.samples, "metrics": whole.whole, "worse": worse}


def _gathered(mine: list[Any]) -> list[Any]:
    """On rank 0 the results of all ranks, in the order of ranks; elsewhere its own. A collective."""
    gathered: list[list[Any]] | None = [[] for _ in range(dist.get_world_size())] if dist.get_rank() == 0 else None
    dist.gather_object(mine, gathered)
    return mine if gathered is None else [result for of_rank in gathered for result in of_rank]


def _figures(
    checkpoint: Path, source: Path | None, decisions: Decisions, indices: Sequence[int], told: dict[str, Any], every: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """The content of explain.json."""
    checks = agreement.between({name: [row["values"] for row in found] for name, found in every.items()})
    shown = {row["sample"] for one in told.values() for row in one.get("shown", [])}
    return {
        "checkpoint": str(checkpoint),
        "compressed_from": None if source is None else str(source),
        "samples": len(indices),
        "background": len(decisions.background),
        "ranks": dist.get_world_size(),
        "decision": decisions.describe(),
        "explainers": told,
        "checks": [dataclasses.asdict(check) for check in checks],
        "shown": {sample: decisions.shown(sample) for sample in sorted(shown)},
    }
