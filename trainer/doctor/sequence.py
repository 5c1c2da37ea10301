"""Which rank has left out a collective: the ranks' sequences compared with one another, and with what came before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations

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
    names = [item.kind for item in before]
    usual = _usual_next(names, kinds, CONTEXT) or _most(kinds) or _first_of_two(names, kinds) or _usual_next(names, kinds, 1)
    wanted = next((item for item in here.values() if item.kind == usual), None)
    ranks = [rank for rank, item in here.items() if wanted is None or item.kind != wanted.kind]
    found = here[ranks[0]]
    on_others = [(items[number], items[number + 1]) for rank, items in by_rank.items() if rank not in ranks and number in items and number + 1 in items]
    skipped = wanted is not None and any((one.kind, two.kind) == (wanted.kind, found.kind) for one, two in [*pairwise(before), *on_others])
    return Difference(number, group, ranks, found, wanted, skipped)


def _usual_next(before: Sequence[str], among: Collection[str], least: int) -> str | None:
    """Which of `among` came last after the same collectives as the end of `before`: after most of them, and at least so many.

    What else came there, such as a save after some steps, does not count: it is none of the things that the ranks have now.
    """
    best, found = least, None
    for index, kind in enumerate(before):
        length = 0
        while length < min(CONTEXT, index) and before[index - 1 - length] == before[-1 - length]:
            length += 1
        if kind in among and length >= best:
            best, found = length, kind
    return found


def _most(kinds: Counter[str]) -> str | None:
    """What more ranks have than have anything else."""
    (first, most), *others = kinds.most_common()
    return first if len(others) == 1 and most > others[0][1] else None


def _first_of_two(before: Sequence[str], kinds: Collection[str]) -> str | None:
    """Of two kinds the one that the other has followed, and never the other way round: the rank that has the other has skipped it.

    It tells where nothing as long as `CONTEXT` has been like the end of `before`, such as after the first save or an evaluation:
    what is shorter, two barriers of two micro-batches, misleads.
    """
    pairs = set(pairwise(before))
    firsts = [one for one, other in permutations(kinds, 2) if (one, other) in pairs]
    return firsts[0] if len(kinds) == 2 and len(firsts) == 1 else None
