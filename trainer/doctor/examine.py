"""The whole examination of a run: every rank, the finding, the stacks, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.doctor.diagnose import Diagnosis, Kind, diagnose
from trainer.doctor.record import DIAGNOSIS, directory
from trainer.doctor.sight import Life, RankSight, look
from trainer.doctor.stacks import collect
from trainer.errors import ConfigError
from trainer.units import duration


def examine(run_dir: Path, standing: bool = False) -> tuple[Diagnosis, str]:
    """What is the matter with the run in `run_dir`, and the page that shows why; `standing`: it is known that no rank comes further.

    Raises:
        ConfigError: `run_dir` is no run directory, or its run has not started its ranks yet.
    """
    seen = look(run_dir)
    if not seen:
        what = "its ranks have not begun" if (run_dir / "config.yaml").is_file() else "is no run directory"
        raise ConfigError(f"{run_dir}: {what}: there is nothing in {directory(run_dir)}. Right would be what `run_dir` was when the run began")
    found = diagnose(seen, standing)
    ended = directory(run_dir) / DIAGNOSIS
    if ended.is_file() and found.kind in (Kind.DEAD, Kind.FAILED):  # of its end: the cause was written down before
        found = Diagnosis(Kind.OVER, [], ended.read_text(encoding="utf-8").strip())
    stacks = {} if found.kind in (Kind.HEALTHY, Kind.OVER) else collect(run_dir, seen)
    return found, describe(found, seen, stacks)


def describe(found: Diagnosis, seen: Sequence[RankSight], stacks: Mapping[int, str]) -> str:
    """One line a rank, then the stacks, then the sentence."""
    lines = [_line(sight) for sight in seen]
    for rank, text in stacks.items():
        lines += ["", f"stack of rank {rank}:", *(f"  {line}" for line in text.splitlines())]
    without = [f"rank {sight.rank} has no stack: {_why_none(sight)}" for sight in seen if sight.rank not in stacks]
    if without and found.kind not in (Kind.HEALTHY, Kind.OVER):
        lines += ["", *without]
    return "\n".join([*lines, "", f"{found.kind}: {found.sentence}"])


def _line(sight: RankSight) -> str:
    record = sight.record
    parts = [f"rank {record.rank}", f"{record.host} pid {record.pid}", str(record.ended or sight.life), f"step {record.step}, {record.phase}"]
    if sight.life is not Life.ENDED:
        parts.append(f"last change {duration(sight.still)} ago")
    parts += [_collectives(sight, group) for group in record.entered]
    return "  ".join(parts)


def _collectives(sight: RankSight, group: str) -> str:
    """`group 0: collective 57 (all_reduce [2]) entered, 56 left`."""
    record = sight.record
    last = next((item for item in record.recent if item.group == group and item.number == record.entered[group]), None)
    name = f" ({last})" if last else ""
    return f"group {group}: collective {record.entered[group]}{name} entered, {record.left[group]} left"


def _why_none(sight: RankSight) -> str:
    not_asked = sight.here and sight.record.process_start is None
    here = "this system does not say whether its process is still the same, so it was not asked" if not_asked else "it does not answer"
    return {
        Life.STOPPED: "a stopped process cannot answer",
        Life.DEAD: "its process is gone",
        Life.ENDED: "it has ended",
    }.get(sight.life, here if sight.here else f"it is on {sight.record.host}, and has not seen itself stand still")
