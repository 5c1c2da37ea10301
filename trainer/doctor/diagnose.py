"""From what is seen of the ranks to one sentence: which of them holds the run up, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from trainer.doctor.sequence import first_difference
from trainer.doctor.sight import Life, RankSight
from trainer.units import duration
from trainer.whereabouts import IN_STEP, Phase

OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError", "can't allocate memory", "out of memory")
LOST = ("Connection closed by peer", "Connection reset by peer", "could not reach the other processes")
AFTER_STEPS = (Phase.EVALUATION, Phase.SAVE, Phase.END)


class Kind(StrEnum):
    """What is found."""

    HEALTHY = "healthy"
    OVER = "over"
    DEAD = "dead rank"
    MEMORY = "out of memory"
    FAILED = "failed rank"
    STOPPED = "stopped process"
    SILENT = "silent rank"
    LOADER = "slow loader"
    UNEQUAL = "unequal batches"
    SKIPPED = "skipped collective"
    DIFFERENT = "different collectives"
    HANGING = "hanging rank"
    LOST = "lost connection"


@dataclass(frozen=True)
class Diagnosis:
    """What holds a run up."""

    kind: Kind
    ranks: list[int]
    """The culprits."""
    sentence: str


def diagnose(seen: Sequence[RankSight], standing: bool = False) -> Diagnosis:
    """The cause, from the surest sign to the least sure. `seen` are all ranks of a start, at least one; `standing`: none comes further."""
    alive = [sight for sight in seen if sight.life is not Life.ENDED]
    for find in (_failed, _dead, _stopped, _silent):
        if (found := find(seen)) is not None:
            return found
    if not alive:
        if (found := _left_early(seen)) is not None:
            return found
        how = sorted({str(sight.record.ended) for sight in seen})
        return Diagnosis(Kind.OVER, [], f"the run is over: {', '.join(how)} at step {max(sight.record.step for sight in seen)}")
    if not (acting := [sight for sight in alive if not sight.waits]):
        sentence = f"the run has not begun: {len(alive)} of {alive[0].record.world_size} ranks are here and wait for the others to come"
        return Diagnosis(Kind.HEALTHY, [], sentence)
    alive = acting
    if not standing and not all(sight.stands for sight in alive):
        return _healthy(alive)
    return _unequal(seen, alive) or _different(alive) or _behind(seen, alive)


def _failed(seen: Sequence[RankSight]) -> Diagnosis | None:
    errors = [sight for sight in seen if sight.record.error is not None and not any(word in sight.record.error for word in LOST)]
    if not errors:
        return None
    first = min(errors, key=lambda sight: sight.record.written)
    error = str(first.record.error).strip().splitlines()[0]
    if any(word in str(first.record.error) for word in OUT_OF_MEMORY):
        return Diagnosis(Kind.MEMORY, [first.rank], f"rank {first.rank} ran out of memory in {_place(first)}: {error}")
    return Diagnosis(Kind.FAILED, [first.rank], f"rank {first.rank} failed in {_place(first)}: {error}")


def _dead(seen: Sequence[RankSight]) -> Diagnosis | None:
    dead = [sight for sight in seen if sight.life is Life.DEAD]
    if not dead:
        return None
    if len(dead) == len(seen) > 1:
        sentence = f"the run was killed: no process of its {len(dead)} ranks is left; they were in {_place(dead[0])}"
        return Diagnosis(Kind.DEAD, [sight.rank for sight in dead], sentence)
    first = min(dead, key=lambda sight: sight.record.written)
    sentence = f"rank {first.rank} is dead: its process {first.record.pid} on {first.record.host} went without a word in {_place(first)}"
    if first.oom_killed:
        return Diagnosis(Kind.MEMORY, [first.rank], f"{sentence}, and the kernel has since ended a process of this container for lack of memory")
    return Diagnosis(Kind.DEAD, [first.rank], sentence)


def _stopped(seen: Sequence[RankSight]) -> Diagnosis | None:
    stopped = [sight for sight in seen if sight.life is Life.STOPPED]
    if not stopped:
        return None
    first = stopped[0]
    more = f" (and rank{'s' if len(stopped) > 2 else ''} {_list(stopped[1:])})" if len(stopped) > 1 else ""
    sentence = (
        f"rank {first.rank} is stopped (SIGSTOP, or a debugger){more}: process {first.record.pid} on {first.record.host}, in {_place(first)}; "
        f"kill -CONT {first.record.pid} there lets it go on"
    )
    return Diagnosis(Kind.STOPPED, [sight.rank for sight in stopped], sentence)


def _silent(seen: Sequence[RankSight]) -> Diagnosis | None:
    silent = [sight for sight in seen if sight.life is Life.SILENT]
    if not silent:
        return None
    first = max(silent, key=lambda sight: sight.still)
    why = (
        "its process runs, but a native call holds the interpreter, or its disk cannot be written"
        if first.here
        else f"its process is stopped or dead, or {first.record.host} cannot be reached or write to the run directory"
    )
    sentence = f"rank {first.rank} on {first.record.host} has given no sign for {duration(first.still)}, since {_place(first)}: {why}"
    return Diagnosis(Kind.SILENT, [sight.rank for sight in silent], sentence)


def _left_early(seen: Sequence[RankSight]) -> Diagnosis | None:
    """A rank that ended well before another, which then lost it."""
    lost = [sight for sight in seen if sight.record.error is not None]
    early = [sight for sight in seen if sight.record.error is None and lost and sight.record.step < max(other.record.step for other in lost)]
    if not early:
        return None
    sentence = (
        f"rank {early[0].rank} left the training loop after step {early[0].record.step} and ended, "
        f"while rank {lost[0].rank} waited for it in {_place(lost[0])}: the ranks have unequal batches"
    )
    return Diagnosis(Kind.UNEQUAL, [sight.rank for sight in early], sentence)


def _healthy(alive: Sequence[RankSight]) -> Diagnosis:
    first = min(alive, key=lambda sight: sight.still)
    pace = f", {first.record.step_seconds:.3g} s a step" if first.record.step_seconds else ""
    return Diagnosis(Kind.HEALTHY, [], f"the run is healthy and goes on: rank {first.rank} is in {_place(first)}{pace}")


def _unequal(seen: Sequence[RankSight], alive: Sequence[RankSight]) -> Diagnosis | None:
    """A rank that has gone on to what follows the steps, while another has a step to take."""
    waits = max(alive, key=lambda sight: (sight.record.phase in IN_STEP, sight.record.step))
    gone = [sight for sight in seen if sight.record.phase in AFTER_STEPS and waits.record.phase in IN_STEP and sight.record.step < waits.record.step]
    early = gone or [sight for sight in seen if sight.life is Life.ENDED]
    if not early:
        return None
    how = "has ended" if early[0].life is Life.ENDED else f"is in {early[0].record.phase}"
    sentence = (
        f"rank {early[0].rank} has left the training loop after step {early[0].record.step} and {how}, "
        f"while rank {waits.rank} waits for it in {_place(waits)}: the ranks have unequal batches"
    )
    return Diagnosis(Kind.UNEQUAL, [sight.rank for sight in early], sentence)


def _different(alive: Sequence[RankSight]) -> Diagnosis | None:
    found = first_difference({sight.rank: sight.record.recent for sight in alive})
    if found is None:
        return None
    at = f"collective {found.number} of group {found.group}"
    if found.wanted is None:
        return Diagnosis(Kind.DIFFERENT, found.ranks, f"ranks {', '.join(map(str, found.ranks))} have different collectives as {at}: one of them skipped one")
    where = f"rank {found.ranks[0]} has {found.found} as {at}, where the others have {found.wanted}"
    if found.skipped:
        sentence = f"rank {found.ranks[0]} has left out {found.wanted}, which is {at} on the others, and gone on to {found.found}"
        return Diagnosis(Kind.SKIPPED, found.ranks, sentence)
    return Diagnosis(Kind.DIFFERENT, found.ranks, f"{where}: it takes another way through the model or the code")


def _behind(seen: Sequence[RankSight], alive: Sequence[RankSight]) -> Diagnosis:
    """All are at the same sequence: who has not come to the collective in which the others wait?"""
    waiting = [sight for sight in alive if sight.record.pending]
    busy = [sight for sight in alive if not sight.record.pending]
    for group in sorted({group for sight in alive for group in sight.record.entered}):
        last = {sight.rank: sight.record.entered.get(group, 0) for sight in alive}
        if min(last.values()) < max(last.values()):
            busy = [sight for sight in alive if last[sight.rank] == min(last.values())]
            waiting = [sight for sight in alive if sight not in busy]
            break
    if not busy:
        pending = alive[0]
        hosts = ", ".join(sorted({sight.record.host for sight in alive}))
        sentence = (
            f"all ranks wait in the same collective, {_collective(pending)}, for {duration(pending.still)}: the connection between them is lost ({hosts})"
        )
        return Diagnosis(Kind.LOST, [sight.rank for sight in alive], sentence)
    first = max(busy, key=lambda sight: sight.still)
    others = f", while the others wait for it in {_collective(waiting[0])}" if waiting else ""
    if first.record.phase == Phase.DATA:
        sentence = f"rank {first.rank} waits for its loader (slow data) in step {first.record.step} since {duration(first.still)}{others}"
        return Diagnosis(Kind.LOADER, [sight.rank for sight in busy], sentence)
    sentence = f"rank {first.rank} hangs in {_place(first)} since {duration(first.still)}{others}: its stack says where"
    return Diagnosis(Kind.HANGING, [sight.rank for sight in busy], sentence)


def _place(sight: RankSight) -> str:
    return f"step {sight.record.step} ({sight.record.phase})" if sight.record.step else str(sight.record.phase)


def _collective(sight: RankSight) -> str:
    """The collective that a rank has entered and not left."""
    entry = next((item for item in sight.record.recent if not item.left), None)
    if entry is not None:
        return f"collective {entry.number} ({entry})"
    group = next(iter(sight.record.pending or sight.record.entered))
    return f"collective {sight.record.entered[group]}"


def _list(sights: Sequence[RankSight]) -> str:
    return ", ".join(str(sight.rank) for sight in sights)
