"""ddp, fsdp and hsdp on 1, 2 and 4 ranks do what one process does."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests import ranks, tiny
from tests.tiny import Tiny, Trained, assert_equal
from trainer.config import Config
from trainer.sections import OptimizerName, Precision
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP, FindUnused
from trainer.strategies.fsdp import FSDP, HSDP
from trainer.strategies.single import Single

SGD = {"name": OptimizerName.sgd, "weight_decay": 0.0, "lr": 0.3}
STRATEGIES: dict[str, tuple[Strategy, int]] = {
    "single": (Single(), 1),
    "ddp-1": (DDP(), 1),
    "ddp-2": (DDP(), 2),
    "ddp-4": (DDP(), 4),
    "ddp-find": (DDP(find_unused_parameters=FindUnused.true), 2),
    "fsdp-1": (FSDP(), 1),
    "fsdp-2": (FSDP(), 2),
    "fsdp-4": (FSDP(), 4),
    "fsdp-keep": (FSDP(reshard_after_forward=False), 2),
    "fsdp-no-sync": (FSDP(no_sync=True), 2),
    "hsdp-2": (HSDP(), 2),
    "hsdp-4": (HSDP(), 4),
    "hsdp-4-no-sync": (HSDP(no_sync=True), 4),
}


@dataclass(frozen=True)
class Case:
    """Knobs of a comparison; each is trained once by one process."""

    name: str

    def config(self, strategy: Strategy) -> Config:
        model, optim, train = {
            "adamw": (Tiny(), {}, {}),
            "sgd": (Tiny(), SGD, {}),
            "momentum": (Tiny(), {**SGD, "momentum": 0.9}, {}),
            "whole-share": (Tiny(), SGD, {"micro_batch_size": None}),
            "no-clip": (Tiny(), {**SGD, "max_norm": 0.0}, {}),
            "tied": (Tiny(tied="root"), SGD, {}),
            "frozen-embedding": (Tiny(freeze="embed"), {}, {}),
            "frozen-block": (Tiny(freeze="blocks.0"), {}, {}),
            "never-used": (Tiny(use={"extra": "never"}), {}, {}),
            "block-never-used": (Tiny(use={"block1": "never"}), {}, {}),
            "decay-alone": (Tiny(), {"lr": 1e-3, "weight_decay": 5.0}, {}),
        }[self.name]
        return tiny.config(strategy, model=model, optim=optim, **train)


CASES = ["sgd", "adamw", "momentum", "whole-share", "no-clip", "tied", "frozen-embedding", "frozen-block", "never-used", "block-never-used", "decay-alone"]
IN_EVERY_CASE = ["ddp-2", "fsdp-2", "hsdp-4"]


LARGE = ["fsdp-keep", "hsdp-4-no-sync"]


def marked(names: Iterable[str], *others: str) -> list[Any]:
    """Parameters of a test: each name, with each of `others`."""
    return [pytest.param(name, *other, marks=pytest.mark.large if name in LARGE else []) for name in names for other in ([(one,) for one in others] or [()])]


def cases_of(strategy: str) -> list[str]:
    return CASES if strategy in ("single", *IN_EVERY_CASE) else CASES[:2]


@dataclass
class Results:
    """What one group of ranks gave: case -> one value for each rank."""

    initial: list[dict[str, torch.Tensor]]
    tied_names: list[set[str]]
    trained: dict[str, list[Trained]]
    fp64: list[Trained]
    bf16: list[Trained]
    bf16_dtypes: list[set[torch.dtype]]


@functools.cache
def attempt(strategy: str) -> Results | Exception:
    try:
        return measure(strategy)
    except ranks.RankFailed as error:  # kept, so that each test says it at once
        return error


def results(strategy: str) -> Results:
    outcome = attempt(strategy)
    if isinstance(outcome, Exception):
        raise ranks.RankFailed(str(outcome))  # a new one: the old one's traceback grows with each raise
    return outcome


def measure(strategy: str) -> Results:
    """Everything about `strategy`, from one group of ranks: forking and connecting take longer than training."""
    part, world_size = STRATEGIES[strategy]
    configs = {case: Case(case).config(part) for case in cases_of(strategy)}
    every = ranks.run(world_size, everything, configs)
    initial, tied, trained, fp64, bf16, dtypes = zip(*every, strict=True)
    return Results(list(initial), list(tied), {case: [of_rank[case] for of_rank in trained] for case in configs}, list(fp64), list(bf16), list(dtypes))


def everything(configs: dict[str, Config]) -> tuple:
    """On a rank: all that `Results` holds."""
    trained = {case: tiny.train(config) for case, config in configs.items()}
    sgd, adamw = configs["sgd"], configs["adamw"]
    bf16 = dataclasses.replace(adamw, train=dataclasses.replace(adamw.train, precision=Precision.bf16))
    engine = tiny.make_engine(bf16)
    bf16_trained = tiny.train(bf16, engine=engine)
    tied = tiny.make_engine(Case("tied").config(adamw.strategy))
    names = {name for name, _ in tied.named_parameters()}
    dtypes = {value.dtype for value in engine.state_dict().values()}
    return tiny.parameters(tiny.make_engine(adamw)), names, trained, tiny.train(tiny.fp64(sgd)), bf16_trained, dtypes


def reference(case: str) -> Trained:
    return results("single").trained[case][0]


OTHERS = [name for name in STRATEGIES if name != "single"]


@pytest.mark.parametrize(("strategy", "case"), [case for strategy in OTHERS for case in marked([strategy], *cases_of(strategy))])
def test_equal_to_one_process(strategy: str, case: str) -> None:
    for trained in results(strategy).trained[case]:
        assert_equal(trained, reference(case))


def test_the_clip_binds_and_labels_differ() -> None:
    """What the cases rest on: without this they would not show a clip or a mean that is local."""
    assert min(reference("sgd").norms) > 0.5
    assert reference("no-clip").losses[1:] != pytest.approx(reference("sgd").losses[1:], rel=1e-5)
    samples = Case("sgd").config(Single()).data.open("train")
    assert len({int((samples[i]["labels"] >= 0).sum()) for i in range(8)}) > 2


@pytest.mark.parametrize("case", ["frozen-embedding", "frozen-block"])
@pytest.mark.parametrize("strategy", ["single", *IN_EVERY_CASE])
def test_frozen_stays_bit_equal(strategy: str, case: str) -> None:
    start = results("single").initial[0]
    prefix = Case(case).config(Single()).model.freeze
    for name, value in results(strategy).trained[case][0].parameters.items():
        assert torch.equal(start[name], value) == name.startswith(prefix), name


@pytest.mark.parametrize("strategy", marked(STRATEGIES))
def test_tied_is_one_parameter(strategy: str) -> None:
    for names in results(strategy).tied_names:
        assert "embed.weight" in names
        assert "head.weight" not in names


@pytest.mark.parametrize("strategy", marked(OTHERS))
def test_initial_values_are_bit_equal(strategy: str) -> None:
    expected = results("single").initial[0]
    for values in results(strategy).initial:
        assert values.keys() == expected.keys()
        assert all(torch.equal(values[name], expected[name]) for name in expected)


@pytest.mark.parametrize("strategy", marked(OTHERS))
def test_fp64_is_equal_to_thirteen_digits(strategy: str) -> None:
    expected = results("single").fp64[0]
    for trained in results(strategy).fp64:
        assert trained.losses == pytest.approx(expected.losses, rel=1e-13)
        assert trained.norms == pytest.approx(expected.norms, rel=1e-13)
        assert all(value.dtype is torch.float64 for value in trained.parameters.values())


@pytest.mark.parametrize("strategy", marked(STRATEGIES))
def test_bf16_keeps_fp32_state_and_stays_near(strategy: str) -> None:
    for trained, dtypes in zip(results(strategy).bf16, results(strategy).bf16_dtypes, strict=True):
        assert dtypes == {torch.float32}
        assert trained.losses == pytest.approx(reference("adamw").losses, rel=0.02)
        assert trained.losses != pytest.approx(reference("adamw").losses, rel=1e-6)  # it is not fp32
