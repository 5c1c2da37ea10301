"""When work counts as lost."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

from trainer.checkpoint.directory import FORMAT_VERSION, MANIFEST, directory, sealed
from trainer.config import Config
from trainer.data.synthetic import Synthetic
from trainer.drill.outcome import Outcome, compare, count_lost
from trainer.drill.run import Run
from trainer.launchers.local import Local
from trainer.ledger import LEDGER, Start
from trainer.models.gpt import GPT


def run_in(run_dir) -> Run:
    return Run(Config(run_dir=str(run_dir), model=GPT(), data=Synthetic(), launcher=Local()), timeout=1)


def outcome(run_dir, *starts: Start, whole: int) -> Outcome:
    (run_dir / LEDGER).write_bytes(b"".join(start.to_line() for start in starts))
    found = Outcome("kill rank 0", equal=True)
    count_lost(found, run_in(run_dir), whole, starts=2)
    return found


def checkpoint(run_dir, tokens: int = 9, **tensors: torch.Tensor):
    path = directory(run_dir, 6)
    path.mkdir(parents=True)
    save_file(tensors, path / "shard-00001-model-00001-of-00001.safetensors")
    manifest = {"format_version": FORMAT_VERSION, "step": 6, "tokens": tokens, "skipped": 0, "passed_over": [], "files": {}}
    (path / MANIFEST).write_text(json.dumps(sealed(manifest)))
    return path


def test_steps_after_the_newest_checkpoint_may_be_done_twice_and_no_others(tmp_path):
    first = Start(began=0, noted=1, first_step=1, taken=8)
    found = outcome(tmp_path, first, Start(began=2, noted=3, first_step=7, taken=12, repeated_steps=2), whole=6)
    assert (found.verdict, found.steps_lost) == ("nothing lost", 2)
    found = outcome(tmp_path, first, Start(began=2, noted=3, first_step=4, taken=12, repeated_steps=5), whole=6)
    assert (found.verdict, found.steps_lost) == ("work lost", 5)
    assert found.wrong == ["lost: it went on from step 3, although there was a whole checkpoint of step 6"]


def test_a_start_too_few_is_wrong(tmp_path):
    found = outcome(tmp_path, Start(began=0, noted=1, first_step=1, taken=12), whole=6)
    assert (found.verdict, found.wrong) == ("failed", ["it was started 1 times instead of 2"])


def test_other_weights_than_the_uninterrupted_runs_are_work_lost(tmp_path):
    """Every bit counts: that of a zero's sign too."""
    weights = {"model.embed": torch.arange(4.0), "model.head": torch.ones(2, 2)}
    reference = checkpoint(tmp_path / "uninterrupted", **weights)
    checkpoint(tmp_path / "equal", **weights)
    checkpoint(tmp_path / "other", **{**weights, "model.embed": torch.tensor([-0.0, 1.0, 2.0, 3.0])})
    checkpoint(tmp_path / "position", tokens=10, **weights)
    for name, verdict, wrong in [
        ("equal", "nothing lost", []),
        ("other", "work lost", ["different: 1 tensors of the last checkpoint are not the uninterrupted run's: model.embed"]),
        ("position", "work lost", ["different: 1 tensors of the last checkpoint are not the uninterrupted run's: tokens of the manifest"]),
        ("none", "work lost", ["lost: there is no whole checkpoint of step 6; the newest is of step 0"]),
    ]:
        found = Outcome("damage")
        compare(found, run_in(tmp_path / name), reference, 6)
        assert (found.verdict, found.wrong) == (verdict, wrong)
        assert found.equal is {"equal": True, "none": None}.get(name, False)
