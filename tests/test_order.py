"""The order of the data: a bijection, the same on any number of ranks, without a drop at the end of an epoch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.order import Order, Permutation, batch_of, micro_batches


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 3000), seed=st.integers(0, 2**63 - 1))
def test_a_permutation_is_a_bijection(length: int, seed: int) -> None:
    taken = Permutation(length, seed).take(np.arange(length))
    assert sorted(taken.tolist()) == list(range(length))


@settings(max_examples=30, deadline=None)
@given(length=st.integers(2, 2**40), seed=st.integers(0, 1000), data=st.data())
def test_one_by_one_is_as_all_at_once(length: int, seed: int, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=8))
    permutation = Permutation(length, seed)
    assert permutation.take(np.array(indices)).tolist() == [permutation[index] for index in indices]


def test_the_order_is_fixed_for_good() -> None:
    """Changing it would change the data that follows every checkpoint."""
    assert Order(10, 0).take(range(20)) == [7, 1, 0, 2, 8, 9, 6, 5, 4, 3, 6, 2, 5, 9, 7, 8, 3, 0, 4, 1]


@pytest.mark.parametrize("index", [-1, 5])
def test_an_index_outside_is_an_error(index: int) -> None:
    with pytest.raises(IndexError, match="of 5"):
        Permutation(5, 0)[index]


def test_seeds_and_epochs_differ() -> None:
    orders = [Order(50, seed).take(range(50)) for seed in range(3)] + [Order(50, 0).take(range(50, 100))]
    assert len({tuple(order) for order in orders}) == 4


def test_samples_are_spread_evenly() -> None:
    """Over seeds, each sample is about as often first as any other (chi-squared, 9 degrees of freedom, p = 1e-6: 44.8)."""
    counts = np.bincount([Order(10, seed)[0] for seed in range(1000)], minlength=10)
    assert ((counts - 100) ** 2 / 100).sum() < 44.8


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 40), epochs=st.integers(1, 3), seed=st.integers(0, 100))
def test_every_epoch_has_every_sample_once(length: int, epochs: int, seed: int) -> None:
    """Also read in one range over the ends of epochs."""
    taken = Order(length, seed).take(range(length * epochs))
    for epoch in range(epochs):
        assert sorted(taken[epoch * length : (epoch + 1) * length]) == list(range(length))
    order = Order(length, seed)
    assert taken == [order[position] for position in range(length * epochs)]
    assert taken[::-1] == [order[position] for position in reversed(range(length * epochs))]


def test_threads_may_share_an_order() -> None:
    """Threads read different epochs at once."""
    order, alone = Order(7, 3), Order(7, 3)
    spans = [range(start, start + 5) for start in range(0, 700, 5)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(order.take, spans))
    assert together == [alone.take(span) for span in spans]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("micro", [None, 1, 2])
def test_a_step_has_the_same_samples_on_any_number_of_ranks(ranks: int, micro: int | None) -> None:
    order, alone = Order(21, 5), Order(21, 5)
    for step in range(1, 9):
        taken = [order.take(span) for rank in range(ranks) for span in micro_batches(step, 8, rank, ranks, micro)]
        assert [sample for samples in taken for sample in samples] == alone.take(range((step - 1) * 8, step * 8))
        assert {len(samples) for samples in taken} == {micro or 8 // ranks}


@given(left_out=st.sets(st.integers(1, 40)))
def test_steps_take_the_batches_that_are_not_passed_over_in_order(left_out: set[int]) -> None:
    taken = [batch_of(step, sorted(left_out)) for step in range(1, 30)]
    assert taken == [batch for batch in range(1, 80) if batch not in left_out][:29]
