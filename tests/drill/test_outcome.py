"""When work counts as lost."""

from __future__ import annotations

from trainer.config import Config
from trainer.data.synthetic import Synthetic
from trainer.drill.outcome import Outcome, count_lost
from trainer.drill.run import Run
from trainer.launchers.local import Local
from trainer.ledger import LEDGER, Start
from trainer.models.gpt import GPT


def outcome(run_dir, *starts: Start, whole: int) -> Outcome:
    (run_dir / LEDGER).write_bytes(b"".join(start.to_line() for start in starts))
    found = Outcome("kill rank 0", equal=True)
    count_lost(found, Run(Config(run_dir=str(run_dir), model=GPT(), data=Synthetic(), launcher=Local()), timeout=1), whole, starts=2)
    return found


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
