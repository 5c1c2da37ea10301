"""Shares of groups are counted, a difference that chance explains is not called one, and small groups are not judged."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.assess.fairness import DIFFERENCES, by_chance, fairness, rates
from trainer.assess.groups import Groups, grouped
from trainer.errors import ConfigError

stats = pytest.importorskip("scipy.stats")


def test_people_in_groups():
    ages = np.array([18.0, 25.0, 59.9, 60.0, 80.0, np.nan])
    found = grouped("age", ages, [25, 60])
    assert found.names == ["under 25", "25 to under 60", "60 and over", "not stated"]
    assert found.places.tolist() == [0, 1, 1, 2, 2, 3]
    assert grouped("age", ages[1:3], [25, 60]).names == ["25 to under 60"]  # nobody is in the others
    found = grouped("sex", np.array(["m", "f", None, "f"], object), None)
    assert (found.names, found.places.tolist()) == (["f", "m", "not stated"], [1, 0, 2, 0])
    found = grouped("children", np.array([2.0, 0.0, 2.0]), None)
    assert (found.names, found.places.tolist()) == (["0", "2"], [1, 0, 1])


def test_what_are_no_groups():
    with pytest.raises(ConfigError, match=r"^assess.groups: 'age' has 50 values, too many for groups; say where to cut it, such as {age:\[43\]}$"):
        grouped("age", np.arange(18.0, 68.0), None)
    with pytest.raises(ConfigError, match="'town' has 20 values, too many for groups; take one with fewer"):
        grouped("town", np.array([str(i) for i in range(20)], object), None)
    with pytest.raises(ConfigError, match=r"^assess.groups: 'sex' holds text, which is not cut at \[1\]; give its name alone$"):
        grouped("sex", np.array(["m", "f"], object), [1])


def drawn(count: int, seed: int, groups: int) -> tuple[np.ndarray, np.ndarray, Groups]:
    draw = np.random.default_rng(seed)
    return draw.random(count) < 0.4, draw.random(count) < 0.3, Groups([f"g{i}" for i in range(groups)], draw.integers(groups, size=count))


def test_rates_are_counted():
    refused, bad, groups = drawn(90, 0, 3)
    judged = {"demographic_parity": [0, 1, 2], "equal_opportunity": [0, 2]}
    counts = np.random.default_rng(1).multinomial(90, np.full(90, 1 / 90), size=5)
    found = rates(refused, bad, groups, judged)(counts.astype(float))
    for i, row in enumerate(counts):
        r, b, g = (np.repeat(each, row) for each in (refused, bad, groups.places))
        accepted = [(~r[g == k]).mean() for k in range(3)]
        of_good = [(~r[(g == k) & ~b]).mean() for k in range(3)]
        assert [found[f"accepted/{k}"][i] for k in range(3)] == pytest.approx(accepted)
        assert [found[f"accepted_good/{k}"][i] for k in range(3)] == pytest.approx(of_good)
        assert found["demographic_parity"][i] == pytest.approx(max(accepted) - min(accepted))
        assert found["equal_opportunity"][i] == pytest.approx(abs(of_good[0] - of_good[2]))


@pytest.mark.parametrize("seed", range(3))
def test_chance_is_that_of_the_exact_test(seed):
    refused, _, groups = drawn(60, seed, 2)
    accepted, first = ~refused, groups.places == 0
    people, inside, yes = len(accepted), int(first.sum()), int(accepted.sum())
    each = np.arange(max(0, inside + yes - people), min(inside, yes) + 1)  # how many of the accepted may be in the first group
    difference = np.abs(each / inside - (yes - each) / (people - inside))
    as_it_is = difference[each == (accepted & first).sum()][0]
    exact = stats.hypergeom(people, yes, inside).pmf(each)[difference >= as_it_is - 1e-12].sum()
    found = by_chance(accepted, groups.places, np.ones(people, bool), [0, 1], draws=20_000)
    assert found == pytest.approx(exact, abs=0.015)


def test_chance_is_asked_of_those_who_are_judged():
    refused, bad, groups = drawn(400, 3, 3)
    refused[groups.places == 2] = True  # not judged
    assert by_chance(~refused, groups.places, np.ones(400, bool), [0, 1]) > 0.05
    assert by_chance(~refused, groups.places, np.ones(400, bool), [0, 1, 2]) < 0.001
    refused[(groups.places == 0) & bad], refused[(groups.places == 1) & bad] = False, True  # they differ only among those who default
    assert by_chance(~refused, groups.places, ~bad, [0, 1]) > 0.05
    assert by_chance(~refused, groups.places, np.ones(400, bool), [0, 1]) < 0.001
    assert by_chance(~refused, groups.places, np.ones(400, bool), [0]) is None


def told(accepted: list[float], size: int, smallest: int = 30, limit: float = 0.1) -> dict:
    """Of groups of `size` people of whom these shares are accepted; a fifth defaults."""
    places = np.repeat(np.arange(len(accepted)), size)
    refused = np.concatenate([np.arange(size) >= round(size * share) for share in accepted])
    bad = np.arange(len(places)) % 5 == 0
    return fairness("sex", Groups([str(i) for i in range(len(accepted))], places), refused, bad, np.full(len(places), 0.2), smallest, limit)


def test_verdicts():
    assert told([0.9, 0.5], 400)["differences"]["demographic_parity"]["verdict"] == "fails"
    alike = told([0.8, 0.8], 600)["differences"]["demographic_parity"]
    assert (alike["verdict"], alike["value"], alike["low"]) == ("passes", 0.0, 0.0)
    assert told([0.8, 0.65], 40)["differences"]["demographic_parity"]["verdict"] == "unsure"
    several = told([0.86, 0.72, 0.71, 0.7, 0.69, 0.66], 60)["differences"][
        "demographic_parity"
    ]  # the largest of fifteen differences is no surprise, whatever the bootstrap says
    assert several["value"] > 0.1
    assert (several["verdict"], several["low"]) == ("unsure", 0.0)
    assert several["chance"] > 0.05


def test_small_groups_are_shown_and_not_judged():
    found = told([0.9, 0.1], 40, smallest=35)  # 40 people each, 32 of whom pay back
    assert [group["judged"] for group in found["groups"]] == [{"demographic_parity": True, "equal_opportunity": False}] * 2
    assert [(group["people"], group["paying"], group["observed"]) for group in found["groups"]] == [(40, 32, 0.2)] * 2
    assert found["differences"]["demographic_parity"]["verdict"] == "fails"
    assert found["differences"]["equal_opportunity"]["verdict"] == "too_small"
    assert found["groups"][0]["accepted"]["value"] == pytest.approx(0.9)
    assert found["groups"][0]["accepted"]["low"] < 0.9
    assert set(found["differences"]) == set(DIFFERENCES)
