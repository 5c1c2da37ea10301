"""What a fault did to a run, and what is wrong with that."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer import ledger
from trainer.bad_steps import BAD_STEPS
from trainer.callbacks.metrics import METRICS
from trainer.checkpoint.directory import directory, newest_step, read_manifest
from trainer.drill.run import Run

POSITION = ("step", "tokens", "skipped", "passed_over")


@dataclass
class Outcome:
    """One row of the drill's table. Times are seconds after the fault was made."""

    fault: str
    done: str = ""
    """What was done, in words."""
    noticed: float | None = None
    """Until the run said so."""
    recovered: float | None = None
    """Until it had come further than it was."""
    steps_lost: int | None = None
    """Steps that were done twice."""
    equal: bool | None = None
    """Whether its last checkpoint is the uninterrupted run's, bit for bit; None: it cannot be, or was not reached."""
    impossible: str | None = None
    """Why this fault could not be made here."""
    wrong: list[str] = field(default_factory=list)
    """What is not as it should be."""

    @property
    def verdict(self) -> str:
        if self.wrong:
            return "work lost" if any(text.startswith(("lost: ", "different: ")) for text in self.wrong) else "failed"
        return "not possible here" if self.impossible else "nothing lost"


def differences(path: Path, reference: Path) -> list[str]:
    """What is not the same, bit for bit, in two checkpoints: tensors by name, and keys of the manifest that say how far training has come."""
    import torch

    from trainer.checkpoint.tensors import StoredTensors

    ours, theirs = StoredTensors(path), StoredTensors(reference)
    apart = sorted(ours.metas.keys() ^ theirs.metas.keys())
    for name in sorted(ours.metas.keys() & theirs.metas.keys()):
        if ours.metas[name] != theirs.metas[name] or not torch.equal(_bits(ours.read(name)), _bits(theirs.read(name))):
            apart.append(name)
    manifest, other = read_manifest(path), read_manifest(reference)
    return apart + [f"{key} of the manifest" for key in POSITION if manifest.get(key) != other.get(key)]


def _bits(value: Any) -> Any:
    import torch

    return value.contiguous().reshape(-1).view(torch.uint8)


def compare(outcome: Outcome, run: Run, reference: Path, step: int) -> None:
    """Note whether the checkpoint of the last `step` is the one at `reference`."""
    path = directory(run.run_dir, step)
    if newest_step(run.run_dir) != step:
        outcome.wrong.append(f"lost: there is no whole checkpoint of step {step}; the newest is of step {newest_step(run.run_dir)}")
        return
    apart = differences(path, reference)
    outcome.equal = not apart
    if apart:
        shown = ", ".join(apart[:3]) + (", ..." if len(apart) > 3 else "")
        outcome.wrong.append(f"different: {len(apart)} tensors of the last checkpoint are not the uninterrupted run's: {shown}")


def count_lost(outcome: Outcome, run: Run, whole: int, starts: int) -> None:
    """Note the steps done twice, and whether a start went on from an earlier step than `whole`, the newest whole checkpoint at the fault."""
    found = ledger.read(run.run_dir)
    outcome.steps_lost = sum(start.repeated_steps for start in found)
    if len(found) != starts:
        outcome.wrong.append(f"it was started {len(found)} times instead of {starts}")
    for start in found[1:]:
        if start.first_step - 1 < whole:
            outcome.wrong.append(f"lost: it went on from step {start.first_step - 1}, although there was a whole checkpoint of step {whole}")


def skipped_once(run_dir: Path, reference: Path, steps: int, at: int, rank: int) -> list[str]:
    """What is wrong with a run whose loss was NaN in step `at` on `rank` alone; `reference` is the uninterrupted run's last checkpoint.

    That step, and no other, is to be skipped on every rank, with its cause written down; the steps before it are the uninterrupted
    run's, those after it are finite, and so is every tensor of the last checkpoint.
    """
    wrong = []
    bad = [(line["step"], line["then"], line["ranks"]) for line in _lines(run_dir / BAD_STEPS)]
    if bad != [(at, "skipped", [rank])]:
        wrong.append(f"{BAD_STEPS} has {bad} instead of step {at}, skipped, of rank {rank}")
    found, whole = _lines(run_dir / METRICS), _lines(reference.parent.parent / METRICS)
    if [line["step"] for line in found] != list(range(1, steps + 1)):
        wrong.append(f"{METRICS} has not every step once")
    if [line["step"] for line in found if line["skipped"]] != [at]:
        wrong.append(f"not step {at} alone was skipped")
    if [line["loss"] for line in found[: at - 1]] != [line["loss"] for line in whole[: at - 1]]:
        wrong.append(f"different: the losses before step {at} are not the uninterrupted run's")
    if any(line["loss"] is None or line["grad_norm"] is None for line in found if line["step"] != at):
        wrong.append(f"a loss or gradient norm beside that of step {at} is not finite")
    path = directory(run_dir, steps)
    if newest_step(run_dir) != steps:
        return [*wrong, f"lost: there is no whole checkpoint of step {steps}"]
    if read_manifest(path)["skipped"] != 1:
        wrong.append("the last checkpoint does not say that one step was skipped")
    return wrong + [f"{name} of the last checkpoint is not finite" for name in _not_finite(path)[:3]]


def _not_finite(path: Path) -> list[str]:
    import torch

    from trainer.checkpoint.tensors import StoredTensors

    stored = StoredTensors(path)
    return [name for name in stored.metas if not bool(torch.isfinite(stored.read(name)).all())]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
