"""What a step exchanges, and evaluation that is exact on any number of ranks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests import ranks, tiny
from tests.tiny import Tiny
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.loop import evaluate, train_steps
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP
from trainer.strategies.fsdp import FSDP, HSDP
from trainer.strategies.single import Single


def collectives(config: Config) -> dict[str, int]:
    """How often each collective runs in one step, seen by the profiler; the fourth step, when nothing is new any more."""
    engine = tiny.make_engine(config)
    batches = tiny.loader(config, 1, 5)
    steps = train_steps(engine, config.model, batches, config, 1, [])
    for _ in range(3):
        next(steps)
    with torch.profiler.profile() as profiler:
        next(steps)
    batches.close()
    names = [event.name for event in profiler.events() if event.name.startswith("gloo:")]
    return dict(Counter(name.removeprefix("gloo:") for name in names))


UNITS = 4  # three blocks and the root
MICRO = 4


@pytest.mark.parametrize(
    ("strategy", "world_size", "expected"),
    [
        # Gloo reduces and scatters by an all-reduce. Beside the strategy's own there is one small
        # all-reduce, and under fsdp a second for the norm.
        (Single(), 1, {}),
        (DDP(), 2, {"all_reduce": 1 + 1}),
        (FSDP(), 2, {"all_reduce": 2 + UNITS * MICRO, "all_gather": 2 * UNITS * MICRO}),
        (FSDP(no_sync=True), 2, {"all_reduce": 2 + UNITS, "all_gather": 2 * UNITS * MICRO}),
        (FSDP(reshard_after_forward=False), 2, {"all_reduce": 2 + UNITS * MICRO, "all_gather": UNITS * MICRO}),
        (HSDP(), 4, {"all_reduce": 2 + UNITS * MICRO + UNITS, "all_gather": 2 * UNITS * MICRO}),
    ],
    ids=["single", "ddp", "fsdp", "fsdp-no-sync", "fsdp-keep", "hsdp"],
)
def test_a_step_exchanges_nothing_needless(strategy: Strategy, world_size: int, expected: dict[str, int]) -> None:
    config = tiny.config(strategy, global_batch_size=MICRO * world_size)
    for counted in ranks.run(world_size, collectives, config):
        assert counted == expected


def evaluations(config: Config, sizes: list[int]) -> list[dict[str, float]]:
    engine = tiny.make_engine(config)
    found = [evaluate(engine, config.model, config.data.open("eval"), size) for size in sizes]
    return [each.means() for each in found if each is not None]


def by_hand(config: Config) -> float:
    """The mean over all labels of the split, one sample at a time, in fp64."""
    engine = tiny.make_engine(tiny.fp64(config))
    samples, total, count = config.data.open("eval"), 0.0, 0
    engine.module.eval()
    with torch.no_grad():
        for i in range(len(samples)):
            batch = samples.batch([i])
            total += float(config.model.loss(engine.module, batch))
            count += int((batch["labels"] >= 0).sum())
    return total / count


def test_evaluation_is_exact_on_any_number_of_ranks() -> None:
    """11 samples: batches of 2 leave a remainder; batches of 8 are fewer than 4 ranks; of 32, one."""
    sizes = [2, 3, 8, 32]
    (expected,) = ranks.run(1, by_hand, tiny.config(Single()))
    (alone,) = ranks.run(1, evaluations, tiny.config(Single()), sizes)
    for metrics in alone:
        assert metrics == {"loss": pytest.approx(expected, rel=1e-6)}
    for strategy, world_size in [(DDP(), 2), (FSDP(), 2), (FSDP(), 4), (HSDP(), 4)]:
        for on_rank in ranks.run(world_size, evaluations, tiny.config(strategy), sizes):
            for metrics, wanted in zip(on_rank, alone, strict=True):
                assert metrics["loss"] == pytest.approx(wanted["loss"], rel=1e-7)


@dataclass(kw_only=True)
class Ordered(Tiny):
    """Has a metric that is no sum, and depends on the order of all samples."""

    def metrics(self, module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**super().metrics(module, batch), "first": batch["input_ids"][:, :1]}

    def curves(self, name: str, rows: Tensor, weights: Tensor) -> dict[str, Tensor]:
        assert name == "first"
        return {"order": weights @ (rows[:, 0] * torch.arange(len(rows), dtype=torch.float64))}


def test_a_metric_that_is_no_sum_sees_all_samples_in_order() -> None:
    config = tiny.config(Single(), model=Ordered())
    samples = config.data.open("eval")
    expected = sum(place * float(samples[place]["input_ids"][0]) for place in range(len(samples)))
    assert expected > 0
    for world_size in (1, 2):
        for on_rank in ranks.run(world_size, evaluations, dataclasses.replace(config, strategy=DDP() if world_size > 1 else Single()), [3, 32]):
            assert [metrics["order"] for metrics in on_rank] == [expected] * 2


def test_rows_that_nothing_is_made_of_are_said() -> None:
    with pytest.raises(ConfigError, match=r"^Tiny: its `metrics` gives rows as 'first', and it has no `curves` to make metrics of them; give it that method$"):
        Tiny().curves("first", torch.zeros(1, 1), torch.ones(1, 1))


def running_means(config: Config) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Each step's running mean, and what an average over the ranks of each rank's own would be."""
    engine = tiny.make_engine(config)
    batches, seen, wanted = tiny.loader(config, 1, 3), [], []
    original = engine.sync_buffers

    def watched() -> None:
        mean = engine.module.stats.running_mean.clone()  # type: ignore[union-attr]
        dist.all_reduce(mean)
        wanted.append(mean / dist.get_world_size())
        original()

    engine.sync_buffers = watched  # type: ignore[method-assign]
    for _ in train_steps(engine, config.model, batches, config, 1, []):
        seen.append(engine.module.stats.running_mean.clone())  # type: ignore[union-attr]
    batches.close()
    return seen, wanted


@pytest.mark.parametrize("strategy", [DDP(), FSDP()], ids=["ddp", "fsdp"])
def test_buffers_are_averaged_over_ranks(strategy: Strategy) -> None:
    (seen, wanted), (other, _) = ranks.run(2, running_means, tiny.config(strategy, model=Tiny(running_mean=True), micro_batch_size=4))
    for one, two, mean in zip(seen, other, wanted, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, mean)
        assert one.abs().sum() > 0


def one_scheduler_step(config: Config) -> list[Any]:
    return tiny.train(config).lrs


def test_one_scheduler_step_for_each_optimizer_step() -> None:
    """Whatever the number of micro-batches and ranks: warm-up over 2 of 5 steps, then cosine to a tenth."""
    expected = [0.01, 0.02, 0.0155, 0.0065, 0.002]
    for strategy, world_size, micro in [(Single(), 1, 8), (Single(), 1, 1), (DDP(), 2, 2)]:
        assert ranks.run(world_size, one_scheduler_step, tiny.config(strategy, micro_batch_size=micro))[0] == pytest.approx(expected)
