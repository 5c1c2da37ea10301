"""Which cells `python -m trainer.prove` makes of a training command."""

from __future__ import annotations

from trainer import own_options
from trainer.prove import plan
from trainer.prove.options import split


def made(*arguments: str) -> plan.Plan:
    """The plan that a command line makes."""
    plans: list[plan.Plan] = []
    assert own_options.run(arguments, "prove", "", "", split, lambda config, options: plans.append(plan.make(config, options, "cpu"))) == 0
    return plans[0]


def test_a_run_that_may_go_on_with_fewer_ranks_is_proved():
    run = ["strategy=ddp", "launcher.nproc_per_node=2", "run.max_restarts=1", "run.min_ranks=2"]
    found = made(*run, "prove.strategies=[ddp]", "prove.ranks=[1,2]")
    assert [(cell.strategy, cell.ranks, cell.status) for cell in found.cells] == [("ddp", 1, ""), ("ddp", 2, "")]
    assert found.reference.run.min_ranks is None
