"""Batches, made ready in threads while the step before runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from trainer.data.base import Samples
from trainer.materialise import stable_seed
from trainer.models.base import Model
from trainer.order import Order, batch_of, micro_batches
from trainer.whereabouts import Phase, Whereabouts

Batch = Mapping[str, Tensor]
Places = tuple[list[range], list[list[int]]]  # of each micro-batch in a step
AT_ONCE = 4096  # samples whose places are found at once: the training thread waits for Python that runs elsewhere
GROUP_BYTES = 1 << 18  # of steps that are read at once, where samples are quick to read: waking a thread costs more than this


@dataclass(frozen=True)
class StepBatch:
    """What one rank takes in one step."""

    batches: Sequence[Batch]
    count: int
    """Valid elements in all of them."""
    positions: Sequence[range]
    """The place of each micro-batch's samples in the order of the data."""
    seeds: Sequence[int]
    """For what the model draws in each micro-batch: a function of (seed, first position)."""


class Loader:
    """Iterates over `steps` for one data rank; `peek_count` looks one ahead.

    `prefetch` steps are made ready ahead, or as many groups of steps where these are small (`Samples.sample_bytes`).
    `passed_over` are batches of the order that no step takes, sorted.
    """

    def __init__(
        self,
        samples: Samples,
        model: Model,
        *,
        seed: int,
        global_batch: int,
        micro_batch: int | None,
        rank: int,
        ranks: int,
        device: torch.device,
        steps: range,
        prefetch: int,
        workers: int,
        passed_over: Sequence[int] = (),
        where: Whereabouts | None = None,
    ):
        self.samples, self.model, self.device = samples, model, device
        self.where = where or Whereabouts()
        """Noted by what takes the steps; here, that it waits."""
        self.order = Order(len(samples), seed)
        self._seed = seed
        self._known: tuple[int, list[Places]] = (-1, [])
        self._share = (global_batch, rank, ranks, micro_batch)
        self._passed_over = passed_over
        self._todo = steps
        self._group = max(1, GROUP_BYTES * ranks // (samples.sample_bytes * global_batch)) if samples.sample_bytes else 1
        self._prefetch = prefetch
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
        self._ready: deque[Future[list[StepBatch]]] = deque()
        self._made: deque[StepBatch] = deque()
        self.waited = 0.0
        """Seconds that the last `next` and the `peek_count` before it waited."""
        self._waiting = 0.0
        self._fill()

    def _fill(self) -> None:
        while len(self._ready) < self._prefetch and self._todo:
            self._ready.append(self._pool.submit(self._make, self._todo[: self._group]))
            self._todo = self._todo[self._group :]

    def _make(self, steps: range) -> list[StepBatch]:
        try:
            return self._make_now(steps)
        except Exception as error:
            error.add_note(f"while making the batch of step {steps[0]}" if len(steps) == 1 else f"while making the batches of steps {steps[0]} to {steps[-1]}")
            raise

    def _make_now(self, steps: range) -> list[StepBatch]:
        places = [self._places(step) for step in steps]
        micro = [chosen for _, indices in places for chosen in indices]
        batches = iter(self._batches(micro))
        made = []
        for positions, _ in places:
            own = list(islice(batches, len(positions)))
            count = sum(self.model.count(batch) for batch in own)
            if self.device.type == "cuda":
                own = [{key: value.pin_memory() for key, value in batch.items()} for batch in own]
            made.append(StepBatch(own, count, positions, [stable_seed(self._seed, "model", span.start) for span in positions]))
        return made

    def _batches(self, micro: list[list[int]]) -> list[Batch]:
        if self.samples.sample_bytes is None:
            return [self.samples.batch(chosen) for chosen in micro]
        every = self.samples.batch([index for chosen in micro for index in chosen])
        parts = {key: value.split([len(chosen) for chosen in micro]) for key, value in every.items()}
        return [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]

    def _places(self, step: int) -> Places:
        """The positions of this rank's micro-batches in `step`, and the samples there; found for several steps at once."""
        global_batch, rank, ranks, micro = self._share
        ahead = max(1, AT_ONCE * ranks // global_batch)
        block = (step - 1) // ahead
        known, places = self._known
        if known != block:
            batches = [batch_of(number, self._passed_over) for number in range(block * ahead + 1, (block + 1) * ahead + 1)]
            positions = [micro_batches(batch, global_batch, rank, ranks, micro) for batch in batches]
            samples = iter(self.order.take_all([span for spans in positions for span in spans]))
            places = [(spans, list(islice(samples, len(spans)))) for spans in positions]
            self._known = (block, places)  # one value, because several threads read and replace it
        return places[(step - 1) % ahead]

    def peek_count(self) -> int:
        """The count of the batch that comes next, 0 after the last."""
        return self._made[0].count if self._come() else 0

    def _come(self) -> bool:
        """Wait for the next step; False after the last."""
        if not self._made and self._ready:
            start = time.perf_counter()
            with self.where.during(Phase.DATA):
                self._made.extend(self._ready.popleft().result())
            self._waiting = time.perf_counter() - start
        return bool(self._made)

    def __iter__(self) -> Iterator[StepBatch]:
        while self._come():
            step_batch = self._made.popleft()
            self.waited, self._waiting = self._waiting, 0.0
            if not self._made:
                self._fill()
            if self.device.type != "cpu":
                step_batch = replace(step_batch, batches=[to_device(batch, self.device) for batch in step_batch.batches])
            yield step_batch

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """`batch` on `device`, without waiting for the copy."""
    return batch if device.type == "cpu" else {key: value.to(device, non_blocking=True) for key, value in batch.items()}
