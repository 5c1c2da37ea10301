"""Generation: a fixed number of equal passes, the same tokens every time."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import nn

from trainer.data.base import Samples
from trainer.models.generate import generate
from trainer.models.gpt import GPT


class Successor(nn.Module):
    """The most likely token after t is t + 1 modulo 10; tokens from 10 on are more likely still."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(input_ids.shape))
        assert not self.training
        logits = nn.functional.one_hot((input_ids + 1) % 10, 12).float() * 4
        logits[..., 10:] = 9.0
        return logits


def run(module: nn.Module, **knobs) -> list[int]:
    return generate(module, [3], **{"count": 9, "window": 4, "vocab_size": 10, "temperature": 0.0, "device": "cpu", **knobs})


def test_greedy_follows_the_model_past_the_window_and_stays_in_the_vocabulary():
    module = Successor().train()
    assert run(module) == [3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert module.shapes == [(1, 4)] * 9
    assert module.training


def test_sampling_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first = run(Successor(), temperature=2.0, count=40)
    torch.manual_seed(2)
    assert run(Successor(), temperature=2.0, count=40) == first
    assert run(Successor(), temperature=2.0, count=40, seed=7) != first


class Letters(Samples):
    spec = MappingProxyType({"vocab_size": 26, "seq_len": 8})
    fingerprint = "letters"

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        return {"input_ids": np.arange(8), "labels": np.arange(1, 9)}

    def decode(self, ids: Sequence[int]) -> str | None:
        return "".join(chr(97 + i) for i in ids)

    def encode(self, text: str) -> list[int]:
        return [ord(c) - 97 for c in text]


class Numbers(Letters):
    def decode(self, ids: Sequence[int]) -> str | None:
        return None


@pytest.mark.parametrize(("prompt", "start"), [(None, "abcdefgh"), ("xyz", "xyz"), ("", "a")])
def test_sample_starts_with_the_prompt(prompt, start):
    model = GPT(layers=1, dim=8, heads=2, prompt=prompt, sample_tokens=5)
    text = model.sample(model.build(Letters.spec), Letters(), "cpu")
    assert text is not None
    assert text.startswith(start)
    assert len(text) == len(start) + 5


def test_no_sample_where_none_is_wanted_or_data_is_not_text():
    model = GPT(layers=1, dim=8, heads=2, sample_tokens=5)
    assert model.sample(model.build(Letters.spec), Numbers(), "cpu") is None
    assert GPT(sample_tokens=0).sample(nn.Identity(), Letters(), "cpu") is None
