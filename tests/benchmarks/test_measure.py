"""The arithmetic that a benchmark's claim rests on."""

from __future__ import annotations

import random

import pytest

from benchmarks.measure import Interval, collect, median_interval, order, verdict


@pytest.mark.parametrize(("count", "k"), [(6, 1), (8, 1), (9, 2), (12, 3), (20, 6), (40, 14), (100, 40)])
def test_interval_lies_at_the_order_statistics_of_the_sign_test(count: int, k: int) -> None:
    # k from the tables of the sign test at 5 %, two-sided (Conover 1999, table A3).
    values = [float(value) for value in range(1, count + 1)]
    random.Random(count).shuffle(values)
    assert median_interval(values) == Interval((count + 1) / 2, k, count + 1 - k, count)


def test_five_values_have_no_interval() -> None:
    with pytest.raises(ValueError, match="5 values: too few for an interval of 95%"):
        median_interval([1.0, 1.0, 1.0, 1.0, 1.0])


def test_interval_covers_the_median_of_a_skewed_distribution() -> None:
    draw = random.Random(0)
    intervals = [median_interval([draw.lognormvariate(0, 1) for _ in range(25)]) for _ in range(2000)]
    covered = sum(interval.low <= 1 <= interval.high for interval in intervals) / len(intervals)
    assert 0.94 <= covered <= 0.98  # exactly 0.957 for 25 values: k = 8


def test_collect_stops_at_the_least_number_when_the_interval_is_narrow() -> None:
    assert collect(lambda number: 1 + number / 1000, least=6, most=100, width=0.02) == [1 + number / 1000 for number in range(6)]


def test_collect_goes_on_while_the_interval_is_wide_and_ends_at_the_most() -> None:
    assert len(collect(lambda number: number % 2, least=6, most=17, width=0.5)) == 17
    narrows = collect(lambda number: 5.0 if number < 3 else 1.0, least=6, most=100, width=0.02)
    assert 6 < len(narrows) < 100
    assert median_interval(narrows).width <= 0.02
    assert median_interval(narrows[:-1]).width > 0.02


def test_order_is_fixed_by_the_pair_and_favours_none() -> None:
    orders = [order(number, ["ours", "other"]) for number in range(1000)]
    assert orders == [order(number, ["ours", "other"]) for number in range(1000)]
    assert all(sorted(names) == ["other", "ours"] for names in orders)
    assert 450 <= sum(names[0] == "ours" for names in orders) <= 550


@pytest.mark.parametrize(("low", "high", "said"), [(0.9, 1.02, "met"), (1.0, 1.03, "open"), (1.02, 1.05, "open"), (1.021, 1.05, "missed")])
def test_verdict_is_where_the_whole_interval_lies(low: float, high: float, said: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high, 9), 1.02) == said
