"""Which rank has left out a collective: the ranks' sequences compared with one another, and with what came before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from trainer.doctor.record import Collective

CONTEXT = 8  # collectives before the first difference that are looked for earlier on


@dataclass(frozen=True)
class Difference:
    """The first collective that is not the same on all ranks."""

    number: int
    group: str
    ranks: list[int]
    """Those that depart from the others, or from what usually follows; all where neither tells."""
    found: Collective
    """What the first of these has."""
    wanted: Collective | None
    """What the others have; None where nobody can tell."""
    skipped: bool
    """Whether `found` is what has come after `wanted` before, or does on the others: the rank has skipped that one."""


def first_difference(recent: Mapping[int, Sequence[Collective]]) -> Difference | None:
    """Compare the `recent` collectives of each rank, group by group, by their numbers."""
    groups = sorted({item.group for items in recent.values() for item in items})
    for group in groups:
        by_rank = {rank: {item.number: item for item in items if item.group == group} for rank, items in recent.items()}
        for number in sorted(set().union(*by_rank.values())):
            here = {rank: items[number] for rank, items in by_rank.items() if number in items}
            kinds = Counter(item.kind for item in here.values())
            if len(kinds) > 1:
                return _judge(group, number, here, kinds, by_rank)
    return None


def _judge(group: str, number: int, here: Mapping[int, Collective], kinds: Counter[str], by_rank: Mapping[int, Mapping[int, Collective]]) -> Difference:
    longest = max(by_rank.values(), key=len)
    before = [longest[key] for key in sorted(longest) if key < number]  # the same on all ranks
    usual = _usual_next(before)
    wanted = next((item for item in here.values() if usual is not None and item.kind == usual.kind), None)
    if wanted is None and len(kinds) == 2 and kinds.most_common()[0][1] > kinds.most_common()[1][1]:
        wanted = next(item for item in here.values() if item.kind == kinds.most_common()[0][0])
    ranks = [rank for rank, item in here.items() if wanted is None or item.kind != wanted.kind]
    found = here[ranks[0]]
    on_others = [(items[number], items[number + 1]) for rank, items in by_rank.items() if rank not in ranks and number in items and number + 1 in items]
    skipped = wanted is not None and any((one.kind, two.kind) == (wanted.kind, found.kind) for one, two in [*pairwise(before), *on_others])
    return Difference(number, group, ranks, found, wanted, skipped)


def _usual_next(before: Sequence[Collective]) -> Collective | None:
    """What came last time after the same collectives as the end of `before`."""
    kinds = [item.kind for item in before]
    best, place = 0, None
    for index in range(1, len(kinds)):
        length = 0
        while length < min(CONTEXT, index) and kinds[index - 1 - length] == kinds[-1 - length]:
            length += 1
        if length >= best and length:
            best, place = length, index
    return None if place is None else before[place]
