"""Training steps and evaluation: the same lines for every strategy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist

from trainer.config import Config
from trainer.data.base import Samples
from trainer.loader import Loader, to_device
from trainer.models.base import Model
from trainer.precision import param_dtype
from trainer.schedule import lr_factor
from trainer.strategies.engine import Batch, Engine, Scalar, not_finite
from trainer.whereabouts import Phase, Whereabouts

CHECK_SECONDS = 1.0  # between two agreements in an evaluation
# Beside a count: one rank's wish to stop, and rank 0's to save. All are whole numbers, and their sum over 8,191 ranks is exact in fp64.
STOP = 2.0**40
SAVE = 2.0**39


class StepValues(NamedTuple):
    """Results of a step, read."""

    loss: float
    grad_norm: float
    count: int
    bad_in_a_row: int
    """Steps up to this one that moved nothing, because their loss or gradient norm was not finite; 0: this one moved the model."""
    stop: bool
    """Some rank was asked to stop."""
    save: bool
    """The time for a checkpoint has come."""


class Mark:
    """A point in the device's time."""

    def __init__(self, device: torch.device):
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()
        self._time = time.perf_counter()

    def wait(self) -> None:
        """Return when the device has come to this point."""
        if self._event is not None:
            self._event.synchronize()

    def since(self, earlier: Mark) -> float:
        """Seconds from `earlier` to this point (both have been waited for)."""
        if self._event is None or earlier._event is None:
            return self._time - earlier._time
        return earlier._event.elapsed_time(self._event) / 1000


class StepResult:
    """Results of a step on their way from the device: `read` waits for this step alone."""

    def __init__(self, step: int, lr: float, data_seconds: float, exchange_seconds: float, values: Sequence[Scalar], own_loss: Scalar, device: torch.device):
        self.step, self.lr, self.data_seconds, self.exchange_seconds = step, lr, data_seconds, exchange_seconds
        self.own_loss = own_loss
        """This rank's loss sum."""
        self._values = values
        self._copied: torch.Tensor | None = None
        if on_device := [value for value in values if isinstance(value, torch.Tensor)]:
            self._copied = torch.empty(len(on_device), dtype=torch.float64, pin_memory=True)
            self._copied.copy_(torch.stack(on_device), non_blocking=True)
        self.mark = Mark(device)

    def read(self) -> StepValues:
        """The values, once the device has them."""
        self.mark.wait()
        copied = iter([] if self._copied is None else self._copied.tolist())
        loss, norm, count, bad_in_a_row, known = [next(copied) if isinstance(value, torch.Tensor) else value for value in self._values]
        return StepValues(loss, norm, int(count), int(bad_in_a_row), known >= STOP, known % STOP >= SAVE)


def train_steps(
    engine: Engine, model: Model, loader: Loader, config: Config, first: int, stop_asked: list[int], save_due: Callable[[], bool] = lambda: False
) -> Iterator[StepResult]:
    """Run optimizer steps from `first` on, one for each item of `loader`.

    A step has one small all-reduce beside the strategy's own: the loss, bad or not, which all ranks must know before
    the optimizer moves; the next step's count; and wishes to stop or (on one rank at most) to save. It runs beside the last backward.
    """
    ranks, where = dist.get_world_size(), loader.where
    dtype = param_dtype(config.train.precision)
    first_count = torch.tensor([loader.peek_count()], dtype=torch.float64, device=engine.device)
    dist.all_reduce(first_count)
    (count,) = scalars(first_count)
    exchange = Exchange(loader, stop_asked, save_due, engine.device)
    scale, scaled_by = first_count, math.nan
    for step, item in enumerate(loader, first):
        where.step, where.phase = step, Phase.FORWARD_BACKWARD
        seeds = iter(item.seeds)

        def loss_fn(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
            where.beat()
            # Randomness in the model (dropout) is a function of (seed, first sample), so no generator is saved.
            seed_generators(next(seeds), engine.device)  # noqa: B023
            return model.loss(module, batch)

        if not engine.model.training:  # `train` walks over every module
            engine.model.train()
        model.begin_step(engine.module, step / config.train.max_steps)
        divisor = count if isinstance(count, torch.Tensor) or count else math.nan  # no label that counts: a bad step
        if isinstance(divisor, torch.Tensor) or divisor != scaled_by:  # mostly it is the same number
            scale, scaled_by = torch.as_tensor(ranks / divisor, dtype=dtype, device=engine.device), divisor
        engine.forward_backward(item.batches, loss_fn, scale, exchange.start)
        where.phase = Phase.EXCHANGE
        waiting = time.perf_counter()
        loss_sum, known = exchange.wait()
        waited = time.perf_counter() - waiting
        where.phase = Phase.OPTIMIZER
        loss = loss_sum / divisor
        factor = lr_factor(config.optim, step, config.train.max_steps)
        norm = engine.step(loss, config.optim.max_norm, factor)
        where.taken()
        values = (loss, norm, count, engine.bad_in_a_row, known)
        yield StepResult(step, config.optim.lr * factor, loader.waited, waited, values, exchange.own_loss, engine.device)
        count = known % SAVE


def scalars(values: torch.Tensor) -> Sequence[Scalar]:
    """The elements of a vector: as numbers on the CPU, where they are computed with in less time; a GPU is not waited for."""
    return values.tolist() if values.device.type == "cpu" else values.unbind()


class Exchange:
    """The small all-reduce of a step: the sums over the ranks of the loss, and of the next step's count with wishes to stop or save.

    Two numbers: Gloo cuts a message into its elements, and takes longer for each. A loss that is not finite makes the sum so.
    """

    def __init__(self, loader: Loader, stop_asked: list[int], save_due: Callable[[], bool], device: torch.device):
        self._loader, self._stop_asked, self._save_due, self._device = loader, stop_asked, save_due, device
        self._alone = dist.get_world_size() == 1
        self.own_loss: Scalar = math.nan
        self._known = 0.0
        self._shared = torch.empty(0)
        self._work: dist.Work | None = None

    def start(self, loss_sum: Scalar) -> None:
        """Begin to exchange this rank's `loss_sum`, in fp64, and what goes with it."""
        wishes = STOP * bool(self._stop_asked) + SAVE * self._save_due()
        known = float(self._loader.peek_count() + wishes)
        self.own_loss, self._known = loss_sum, known
        if self._alone:
            return
        if isinstance(loss_sum, torch.Tensor):
            self._shared = torch.stack([loss_sum, torch.tensor(known, dtype=torch.float64).to(self._device, non_blocking=True)])
        else:
            self._shared = torch.tensor([loss_sum, known], dtype=torch.float64)
        self._work = dist.all_reduce(self._shared, async_op=True)

    def wait(self) -> Sequence[Scalar]:
        """The two sums; a GPU is not waited for."""
        if self._work is None:
            return self.own_loss, self._known
        self._work.wait()
        return scalars(self._shared)


def ranks_with_bad_loss(result: StepResult) -> list[int]:
    """The ranks whose own loss in this step was not finite. A collective."""
    own = torch.as_tensor(result.own_loss)
    bad = torch.zeros(dist.get_world_size(), device=own.device)
    bad[dist.get_rank()] = not_finite(own)
    dist.all_reduce(bad)
    return bad.nonzero().flatten().tolist()


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed what a model on `device` draws from.

    `torch.manual_seed` also queues a call, with its traceback, for each kind of device that is not
    there, which takes as long as a small step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


class StopCheck:
    """Agrees now and then whether some rank was asked to stop, where ranks go through turns and do not meet otherwise.

    One small all-reduce about every `CHECK_SECONDS`: it brings the time that the slowest rank took since the one before,
    from which all ranks find the same number of turns until the next.
    """

    def __init__(self, stop_asked: Sequence[int], device: torch.device):
        self._stop_asked, self._device = stop_asked, device
        self._turns = self._left = 1
        self._since = time.perf_counter()

    def __call__(self) -> bool:
        """Whether to stop, the same on all ranks. Call once a turn."""
        if dist.get_world_size() == 1:
            return bool(self._stop_asked)
        self._left -= 1
        if self._left:
            return False
        shared = torch.tensor([bool(self._stop_asked), time.perf_counter() - self._since], dtype=torch.float64, device=self._device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        stop, seconds = shared.tolist()
        self._turns = self._left = max(1, min(8 * self._turns, int(self._turns * CHECK_SECONDS / max(seconds, 1e-9))))
        self._since = time.perf_counter()
        return bool(stop)


class Evaluation(NamedTuple):
    """Sums over each batch of a split, the same on all ranks."""

    counts: torch.Tensor
    """(batches,) valid elements, fp64 on the CPU."""
    sums: dict[str, torch.Tensor]
    """For each metric (batches,), fp64 on the CPU."""
    model: Model
    rows: dict[str, list[torch.Tensor]]
    """For each entry that is no sum: of each batch (rows, columns), fp64 on the CPU."""

    def means(self) -> dict[str, float]:
        """Of each metric over the whole split."""
        return {name: float(each) for name, each in self.resampled(torch.ones(1, len(self.counts), dtype=torch.float64)).items()}

    def resampled(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of each metric (resamples,), where each batch counts as often as `weights`, (resamples, batches), says."""
        found = {name: (weights @ each) / (weights @ self.counts) for name, each in self.sums.items()}
        for name, batches in self.rows.items():
            lengths = torch.tensor([len(each) for each in batches])
            found |= self.model.curves(name, torch.cat(batches), weights.repeat_interleave(lengths, dim=1))
        return found | self.model.following(found)


@torch.no_grad()
def evaluate(
    engine: Engine, model: Model, samples: Samples, batch_size: int, stop_asked: Sequence[int] = (), where: Whereabouts | None = None
) -> Evaluation | None:
    """`model.metrics` over the whole of `samples`, exact: sums and counts in fp64, added up in the order of the samples.

    None: given up on every rank, because some rank was asked to stop (`stop_asked` became non-empty there).

    Batches of `batch_size` are dealt to the ranks in turn, so each is computed alike on any number
    of ranks; a rank without one repeats the first with weight 0, because sharded forwards are collectives.
    """
    rank, ranks = dist.get_rank(), dist.get_world_size()
    starts = list(range(0, len(samples), batch_size))
    names: list[str] = []
    mine: list[torch.Tensor] = []
    tables: list[dict[str, torch.Tensor]] = []
    where = where or Whereabouts()
    was_training = engine.model.training
    engine.model.eval()
    check = StopCheck(stop_asked, engine.device)
    for turn in range(0, len(starts), ranks):
        where.beat()
        if check():
            engine.model.train(was_training)
            return None
        start = starts[turn + rank] if turn + rank < len(starts) else 0
        batch = samples.batch(range(start, min(start + batch_size, len(samples))))
        found = engine.metrics(model, to_device(batch, engine.device))
        tables.append({name: found.pop(name).to("cpu", torch.float64) for name in list(found) if found[name].ndim == 2})
        names = list(found)
        count = torch.tensor(float(model.count(batch)), dtype=torch.float64, device=engine.device)
        mine.append(torch.stack([count, *(value.to(torch.float64) for value in found.values())]))
    engine.model.train(was_training)
    every = torch.zeros(len(mine) * ranks, len(names) + 1, dtype=torch.float64, device=engine.device)
    every[rank::ranks] = torch.stack(mine)
    every[len(starts) :] = 0  # repeated ones
    dist.all_reduce(every)
    counts, *sums = every[: len(starts)].T.cpu()
    return Evaluation(counts, dict(zip(names, sums, strict=True)), model, _gathered(tables, len(starts)))


def _gathered(mine: list[dict[str, torch.Tensor]], batches: int) -> dict[str, list[torch.Tensor]]:
    """For each name the rows of every batch, in order, from those of this rank's batches. A collective where there are any."""
    ranks = dist.get_world_size()
    every: list[list[dict[str, torch.Tensor]]] = [mine] * ranks
    if ranks > 1 and mine[0]:
        every = [[] for _ in range(ranks)]
        dist.all_gather_object(every, mine)
    return {name: [every[number % ranks][number // ranks][name] for number in range(batches)] for name in mine[0]}
