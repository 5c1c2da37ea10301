"""Reading ahead, errors of the data, and threads that end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny import Tiny
from trainer.data.base import IGNORE, Samples
from trainer.loader import GROUP_BYTES, Loader
from trainer.order import Order


class Watched(Samples):
    """Samples that say which were read, and may wait or fail."""

    def __init__(self, length: int = 64, before: Callable[[int], None] = lambda index: None) -> None:
        self.length, self.before = length, before
        self.spec, self.fingerprint = {}, "watched"
        self.read: list[int] = []
        self.some_read = threading.Condition()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        self.before(index)
        with self.some_read:
            self.read.append(index)
            self.some_read.notify_all()
        return {"input_ids": np.array([index, 0]), "labels": np.array([index, IGNORE if index % 2 else index])}

    def wait_for(self, count: int) -> bool:
        """Whether `count` samples come to be read without anybody asking for more."""
        with self.some_read:
            return self.some_read.wait_for(lambda: len(self.read) >= count, timeout=10)


def make(samples: Samples, **knobs: Any) -> Loader:
    defaults = {
        "seed": 3,
        "global_batch": 4,
        "micro_batch": 2,
        "rank": 0,
        "ranks": 1,
        "device": torch.device("cpu"),
        "steps": range(1, 11),
        "prefetch": 2,
        "workers": 1,
    }
    return Loader(samples, Tiny(), **{**defaults, **knobs})


def ids(batches: Sequence[Any]) -> list[int]:
    return [int(i) for batch in batches for i in batch["input_ids"][:, 0]]


def test_batches_follow_the_order() -> None:
    loader = make(Watched())
    order = Order(64, 3)
    for step, item in enumerate(loader):
        assert ids(item.batches) == order.take(range(4 * step, 4 * step + 4))
        assert [len(batch["labels"]) for batch in item.batches] == [2, 2]
        assert item.count == sum(int((batch["labels"] != IGNORE).sum()) for batch in item.batches)
        assert [span.start for span in item.positions] == [4 * step, 4 * step + 2]
    assert step == 9
    loader.close()


def test_batches_follow_the_order_over_blocks_of_steps_that_are_looked_up_at_once() -> None:
    """From the middle of one block of 64 steps into the third, over the ends of epochs of 64 samples, read by several threads."""
    loader = make(Watched(), global_batch=4, rank=1, ranks=2, micro_batch=1, steps=range(50, 140), prefetch=4, workers=4)
    order = Order(64, 3)
    expected = [order.take(range(4 * step + 2, 4 * step + 4)) for step in range(49, 139)]
    assert [ids(item.batches) for item in loader] == expected
    loader.close()


class Small(Watched):
    """Quick to read: the loader may read several steps at once."""

    def __init__(self, sample_bytes: int) -> None:
        super().__init__()
        self.sample_bytes = sample_bytes


@pytest.mark.parametrize("workers", [1, 3])
def test_small_steps_are_read_together_and_are_the_same(workers: int) -> None:
    """Groups of 5 steps, so that the last one of 11 steps is alone."""
    knobs = {"steps": range(3, 14), "ranks": 2, "rank": 1, "workers": workers}
    grouped, single = make(Small(2 * GROUP_BYTES // (4 * 5)), **knobs), make(Watched(), **knobs)
    assert grouped.samples.wait_for(2 * 5 * 2)  # two groups ahead, 2 samples a step
    for one, other in zip(grouped, single, strict=True):
        assert (one.count, one.positions) == (other.count, other.positions)
        for batch, expected in zip(one.batches, other.batches, strict=True):
            assert all(torch.equal(batch[key], expected[key]) for key in ("input_ids", "labels"))
    grouped.close(), single.close()


def test_a_large_step_is_read_alone() -> None:
    samples = Small(GROUP_BYTES)
    loader = make(samples, prefetch=1)
    assert samples.wait_for(4)
    assert not threading.Event().wait(0.05)
    assert len(samples.read) == 4
    loader.close()


def test_no_micro_batch_size_takes_the_share_at_once() -> None:
    loader = make(Watched(), micro_batch=None, ranks=2, rank=1)
    item = next(iter(loader))
    assert ids(item.batches) == Order(64, 3).take(range(2, 4))
    assert len(item.batches) == 1
    loader.close()


@pytest.mark.parametrize("prefetch", [1, 3])
def test_reads_ahead_and_no_further(prefetch: int) -> None:
    """Before the first step is asked for, and while a step runs, `prefetch` steps are made ready: 4 samples each."""
    samples = Watched()
    loader = make(samples, prefetch=prefetch)
    assert samples.wait_for(4 * prefetch)
    steps = iter(loader)
    next(steps)
    assert samples.wait_for(4 * (prefetch + 1))
    assert not threading.Event().wait(0.05)
    assert len(samples.read) == 4 * (prefetch + 1)
    loader.close()


def test_a_step_does_not_wait_for_what_is_ready() -> None:
    """The first 8 samples can be read; the third step's hang, and the second step comes all the same."""
    gate, order = threading.Event(), Order(64, 3)
    ready = set(order.take(range(8)))
    samples = Watched(before=lambda index: None if index in ready else gate.wait(10) and None)
    loader = make(samples)
    assert samples.wait_for(8)
    steps = iter(loader)
    assert [ids(next(steps).batches), ids(next(steps).batches)] == [order.take(range(4)), order.take(range(4, 8))]
    assert len(samples.read) == 8
    gate.set()
    loader.close()


def test_workers_read_at_the_same_time() -> None:
    both = threading.Barrier(2)
    samples = Watched(before=lambda index: both.wait(timeout=10) and None)
    loader = make(samples, workers=2, micro_batch=None, global_batch=1, steps=range(1, 3))
    assert [len(ids(item.batches)) for item in loader] == [1, 1]
    loader.close()


def test_peek_count_is_of_the_next_step_and_0_after_the_last() -> None:
    loader = make(Watched(), steps=range(1, 3))
    peeked = [loader.peek_count()]
    counts = []
    for item in loader:
        counts.append(item.count)
        peeked.append(loader.peek_count())
    assert peeked == [*counts, 0]
    loader.close()


def _fail_at(wrong: int) -> Callable[[int], None]:
    def before(index: int) -> None:
        if index == wrong:
            raise OSError(f"shard of sample {index} is gone")

    return before


def test_an_error_of_the_data_comes_out_at_its_step() -> None:
    loader = make(Watched(before=_fail_at(Order(64, 3)[9])), micro_batch=None)
    steps = iter(loader)
    next(steps), next(steps)
    with pytest.raises(OSError, match="shard of sample") as caught:
        next(steps)  # positions 8 to 11 are step 3
    assert caught.value.__notes__ == ["while making the batch of step 3"]
    loader.close()


def _fail_in_a_step(loader: Loader) -> None:
    try:
        next(iter(loader))
        raise RuntimeError("a step failed")
    finally:
        loader.close()


def test_threads_end_when_an_exception_flies() -> None:
    before = {thread.ident for thread in threading.enumerate()}
    with pytest.raises(RuntimeError, match="a step failed"):
        _fail_in_a_step(make(Watched(), workers=3, prefetch=4))
    assert {thread.ident for thread in threading.enumerate() if "loader" in thread.name} <= before


def test_counts_rows_of_regression() -> None:
    assert Tiny().count({"labels": torch.zeros(5)}) == 5
    labels: Tensor = torch.tensor([[1, IGNORE], [IGNORE, IGNORE]])
    assert Tiny().count({"labels": labels}) == 1
