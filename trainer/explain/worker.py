"""What each rank does for `explain=`: with the model whole, every world-th sample, its attributions and the evidence for them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainer import config as configs
from trainer import distributed
from trainer.checkpoint.directory import list_whole
from trainer.config import Config
from trainer.data.progress import progress
from trainer.distributed import Place
from trainer.explain.base import Explainer
from trainer.explain.case import Attribution, Case
from trainer.explain.decisions import Decisions, decisions_of
from trainer.explain.run import EXPLAINED, FIGURES
from trainer.posttrain.chains import COMPRESS
from trainer.posttrain.load import load
from trainer.posttrain.worker import with_ranks
from trainer.writing import write_whole

SHOWN = 5  # samples whose decision the report shows one by one


def explain(config: Config, place: Place, asked: list[int] | None = None) -> None:
    """Explain what the newest checkpoint of `config.run_dir` decides, as `config.explain` says, into `config.run_dir`/explain.

    Raises:
        ConfigError: an explainer does not fit the model.
    """
    with_ranks(explain_among, config, place, asked)


def explain_among(config: Config, start: Path, run_dir: Path, device: torch.device) -> None:
    """The same, of this rank in a group of ranks."""
    checkpoint = distributed.from_rank_0(lambda: list_whole(run_dir))[-1]
    decisions = _decisions(config, checkpoint, device)
    count = min(config.posttrain.explain_samples, len(decisions.samples))
    indices = [number * len(decisions.samples) // count for number in range(count)]
    rank, world = dist.get_rank(), dist.get_world_size()
    mine = indices[rank::world]
    place = run_dir / EXPLAINED
    if rank == 0:
        place.mkdir(exist_ok=True)
        (place / FIGURES).unlink(missing_ok=True)  # of an earlier explanation
    told: dict[str, Any] = {}
    for name, part in config.explain.items():
        began = time.monotonic()
        with progress(f"explain={name}", count, "decisions") if rank == 0 and config.log.progress else nullcontext(_silent) as advance:
            rows = []
            for index in mine:
                rows.append(row_of(decisions.case(index), part, config.train.seed))
                advance(world)
        gathered: list[list[dict[str, Any]]] | None = [[] for _ in range(world)] if rank == 0 else None
        dist.gather_object(rows, gathered)
        if gathered is not None:
            every = sorted((row for of_rank in gathered for row in of_rank), key=lambda row: row["sample"])
            write_whole(place / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in every))
            told[name] = {
                "part": configs.to_plain(part),
                "seconds": time.monotonic() - began,
                "global": over_all(every),
                "shown": every[:: max(1, len(every) // SHOWN)][:SHOWN],
                "checks": [],
            }
    if rank == 0:
        shown = {row["sample"]: decisions.shown(row["sample"]) for one in told.values() for row in one["shown"]}
        found = {
            "checkpoint": str(checkpoint),
            "samples": count,
            "ranks": world,
            "background": len(decisions.background),
            "decision": decisions.describe(),
            "explainers": told,
            "checks": [],
            "shown": shown,
        }
        write_whole(place / FIGURES, json.dumps(found, indent=1))
    dist.barrier()


def _silent(done: int) -> None:
    """For ranks that show nothing."""


def _decisions(config: Config, checkpoint: Path, device: torch.device) -> Decisions:
    loaded = load(checkpoint)
    at = config.posttrain
    return decisions_of(
        loaded.config.model, loaded.module.to(device), config.data.open("eval"), config.data.open("train"), at.explain_background, at.explain_output
    )


def original(run_dir: Path) -> Path | None:
    """The checkpoint that the model of `run_dir` was compressed from, where it is still there."""
    path = run_dir / COMPRESS
    if not path.is_file():
        return None
    found = Path(json.loads(path.read_text(encoding="utf-8"))["from"])
    return found if found.is_dir() else None


def row_of(case: Case, part: Explainer, seed: int) -> dict[str, Any]:
    """What `part` says of `case`, as plain data."""
    found = attribution(case, part, seed)
    return {
        "sample": case.seed,
        "margin": case.all_present(),
        "base": found.base,
        "units": case.units,
        "values": found.values.tolist(),
        **({"deviation": found.deviation.tolist()} if found.deviation is not None else {}),
        **({"told": found.told} if found.told else {}),
    }


def attribution(case: Case, part: Explainer, seed: int) -> Attribution:
    """By `part`, with a seed that the sample and the run's `seed` fix, whichever rank it is computed on."""
    return part.explain(case, int(torch.randint(2**31, (), generator=torch.Generator().manual_seed(seed * 1_000_003 + case.seed))))


def over_all(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each unit the mean value and mean absolute value over `rows`; nothing where their units differ, as tokens and regions do."""
    units = rows[0]["units"]
    if any(row["units"] != units for row in rows):
        return {}
    values = torch.tensor([row["values"] for row in rows], dtype=torch.float64)
    return {unit: {"mean_abs": float(column.abs().mean()), "mean": float(column.mean())} for unit, column in zip(units, values.T, strict=True)}
