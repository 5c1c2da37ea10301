"""Catches use of the model that depends on the rank before it makes two collectives meet that do not belong together.

Under FSDP every unit that runs is a collective. If ranks run different units, gloo and NCCL hang, abort the
process, or silently hand one unit's weights to another. So each rank keeps the sequence of its collectives in a
micro-batch, and compares it with that of an earlier micro-batch, on which all ranks had agreed: as long as it is
the same, nothing is exchanged. Where it differs, the rank first asks the others through the process group's store.
"""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from trainer.errors import RunError

Entry = str
AGREED = "agreed"
FOLLOW_SECONDS = 20.0
"""How long a rank that departs from the usual sequence waits for the others to do the same. In the first
micro-batch, where there is no usual sequence, all ranks come to the store, and each waits for all."""


class Agreement:
    """The sequence of collectives in a micro-batch, the same on all ranks or an error that names `strategy`."""

    def __init__(self, strategy: str):
        self._strategy = strategy
        self._follow = timedelta(seconds=FOLLOW_SECONDS)
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        store = _get_default_store()
        number = store.add(f"trainer/agreements/{self._rank}", 1)  # ranks make their models in the same order
        self._store = dist.PrefixStore(f"trainer/agreement/{number}", store)
        self._known: list[list[Entry]] = []
        self._usual: list[Entry] = []
        self._now: list[Entry] = []
        self._micro_batch = 0
        self._active = False

    def begin(self) -> None:
        """A micro-batch starts."""
        self._now = []
        self._active = True

    def note(self, entry: Entry) -> None:
        """Call before each collective. Nothing outside a micro-batch (evaluation is not watched).

        Raises:
            RunError: another rank does something else here, or does not follow.
        """
        if not self._active:
            return
        position = len(self._now)
        self._now.append(entry)
        if position < len(self._usual) and self._usual[position] == entry:
            return
        usual = self._usual[position] if position < len(self._usual) else None
        self._agree(f"{self._micro_batch}/{position}", entry, usual)
        # All ranks are here, so all know the same sequences, and choose the same one to go on with.
        self._usual = next((known for known in self._known if known[: position + 1] == self._now), self._now[:])

    def end(self, entry: Entry) -> None:
        """A micro-batch is over; `entry` is the last thing that must be the same."""
        self.note(entry)
        self._active = False
        self._micro_batch += 1
        if self._now not in self._known:
            self._known = [*self._known[-15:], self._now]
        self._usual = self._now

    def _agree(self, key: str, entry: Entry, usual: Entry | None) -> None:
        found = self._store.compare_set(f"{key}/first", "", f"{self._rank} {entry}").decode()
        other, theirs = found.split(" ", 1)
        verdict = f"{key}/verdict"
        if theirs != entry:
            wrong = f"{self._message()}: in the same micro-batch rank {other} has {theirs} where rank {self._rank} has {entry}. {self._advice()}"
            self._store.set(verdict, wrong)
            raise RunError(wrong)
        if self._store.add(f"{key}/count", 1) == self._ranks:
            self._store.set(verdict, AGREED)
        try:
            self._store.wait([verdict], *([self._follow] if self._known else []))
        except RuntimeError as error:
            if "timeout" not in str(error).lower():
                raise
            raise RunError(
                f"{self._message()}: rank {self._rank} has {entry} where it had {usual or 'nothing more'} before, and not every other rank "
                f"did the same within {self._follow.total_seconds():.0f} s. {self._advice()}"
            ) from error
        if (said := self._store.get(verdict).decode()) != AGREED:
            raise RunError(said)

    def _message(self) -> str:
        return f"strategy={self._strategy}: the parameters that are used depend on the rank"

    def _advice(self) -> str:
        return "That cannot be sharded; use strategy=ddp, or use the same parameters on every rank"
