"""What rehearses a bad step is the user's model but for its loss."""

from __future__ import annotations

from trainer import config as configs
from trainer.drill.poisoned import Poisoned
from trainer.models.gpt import GPT


def test_the_model_is_the_same_also_after_being_written():
    inner = GPT(layers=3, dim=16, heads=2)
    model = Poisoned(base=inner, run_dir="x", at=4, on_rank=1)
    again = configs.part_from_plain(configs.to_plain(model))
    assert again == model
    assert again.base == inner
    assert again.identity() == inner.identity()
