"""zero1, zero2 and zero3 do what one process does, keep what they hold to their part, and refuse what they cannot do."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests import ranks, tiny
from tests.strategies.zero import run
from tests.tiny import Tiny, Trained
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.sections import Device, OptimizerName, Precision
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP, FindUnused
from trainer.strategies.deepspeed import ZeRO, ZeRO1, ZeRO2, ZeRO3
from trainer.strategies.single import Single

pytestmark = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="the extra `deepspeed` is not installed")

SGD = {"name": OptimizerName.sgd, "weight_decay": 0.0, "lr": 0.3}
CASES: dict[str, tuple[Tiny, dict[str, Any], dict[str, Any]]] = {
    "sgd": (Tiny(), SGD, {}),
    "adamw": (Tiny(), {}, {}),
    "momentum": (Tiny(), {**SGD, "momentum": 0.9}, {}),
    "whole-share": (Tiny(), SGD, {"micro_batch_size": None}),
    "no-clip": (Tiny(), {**SGD, "max_norm": 0.0}, {}),
    "decay-alone": (Tiny(), {"lr": 1e-3, "weight_decay": 5.0}, {}),
    "tied": (Tiny(tied="root"), SGD, {}),
    "tied-blocks": (Tiny(tied="blocks"), SGD, {}),
    "frozen-embedding": (Tiny(freeze="embed"), {}, {}),
    "frozen-block": (Tiny(freeze="blocks.0"), {}, {}),
    "never-used": (Tiny(use={"extra": "never"}), {}, {}),
    "block-never-used": (Tiny(use={"block1": "never"}), {}, {}),
    "checkpointed": (Tiny(), SGD, {"activation_checkpointing": True}),
}
UNUSED = {"until": Tiny(use={"extra": "until:4"}), "odd": Tiny(use={"extra": "odd"}), "block-until": Tiny(use={"block1": "until:4"})}
STRATEGIES: dict[str, tuple[Strategy, int]] = {
    "single": (Single(), 1),
    "ddp": (DDP(find_unused_parameters=FindUnused.true), 2),
    "zero1": (ZeRO1(), 2),
    "zero2": (ZeRO2(), 2),
    "zero3": (ZeRO3(param_persistence_threshold=0), 2),
    "zero1-all": (ZeRO1(), 2),
    "zero2-all": (ZeRO2(), 2),
    "zero3-all": (ZeRO3(param_persistence_threshold=0), 2),
    "zero3-some-whole": (ZeRO3(param_persistence_threshold=20), 2),
    "zero1-offload": (ZeRO1(cpu_offload=True), 2),
    "zero2-offload": (ZeRO2(cpu_offload=True), 2),
    "zero3-offload": (ZeRO3(param_persistence_threshold=0, cpu_offload=True), 2),
    "zero2-small-buckets": (ZeRO2(reduce_bucket_size=100), 2),
    "zero3-small-buckets": (ZeRO3(param_persistence_threshold=0, reduce_bucket_size=100, prefetch_bucket_size=0, max_live_parameters=0), 2),
    "zero1-of-1": (ZeRO1(), 1),
    "zero3-of-1": (ZeRO3(param_persistence_threshold=0), 1),
    "zero2-of-4": (ZeRO2(), 4),
    "zero3-of-4": (ZeRO3(param_persistence_threshold=0), 4),
}
IN_EVERY_CASE = ["zero1-all", "zero2-all", "zero3-all"]
IN_SOME = ["sgd", "adamw", "tied", "frozen-embedding", "frozen-block"]
WITH_UNUSED = ["zero3", *IN_EVERY_CASE, "zero1-offload", "zero2-offload", "zero3-offload"]
ZEROS = [name for name in STRATEGIES if name.startswith("zero")]
LARGE = {name for name in STRATEGIES if name.endswith(("-all", "-offload", "-of-4", "-small-buckets", "-some-whole"))} | {"zero1-of-1"}


def marked(names: Sequence[str], *others: Any) -> list[Any]:
    """Parameters of a test: each name with each of `others`; what takes long is `large`."""
    return [pytest.param(name, *other, marks=[pytest.mark.large] if name in LARGE else []) for name in names for other in others or [()]]


@dataclass
class Results:
    """What one group of ranks gave, for rank 0 (losses and parameters are global)."""

    trained: dict[str, Trained]
    unused: dict[str, Trained]
    bf16: Trained
    initial: dict[str, torch.Tensor]
    names: set[str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: set[torch.dtype]


def case(strategy: Strategy, name: str) -> Config:
    model, optim, train = CASES[name]
    return tiny.config(strategy, model=model, optim=optim, **{"micro_batch_size": 2, **train})


def everything(part: Strategy, cases: list[str], unused_cases: list[str]) -> Results:
    trained = {name: tiny.train(case(part, name)) for name in cases}
    unused = {name: tiny.train(tiny.config(part, model=UNUSED[name], optim=SGD, micro_batch_size=2)) for name in unused_cases}
    adamw = case(part, "adamw")
    bf16 = dataclasses.replace(adamw, train=dataclasses.replace(adamw.train, precision=Precision.bf16, max_steps=3))
    engine = tiny.make_engine(bf16)
    bf16_trained = tiny.train(bf16, engine=engine)
    state = engine.state_dict()
    fresh = tiny.make_engine(case(part, "tied"))
    names = {name for name, _ in fresh.named_parameters()}
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    return Results(trained, unused, bf16_trained, tiny.parameters(tiny.make_engine(adamw)), names, shapes, {value.dtype for value in state.values()})


@functools.cache
def results(strategy: str) -> Results:
    part, world_size = STRATEGIES[strategy]
    return run(world_size, everything, part, cases_of(strategy), list(UNUSED) if strategy in (*WITH_UNUSED, "ddp") else [], timeout=280)[0]


def cases_of(strategy: str) -> list[str]:
    if strategy in ("single", *IN_EVERY_CASE):
        return list(CASES)
    return IN_SOME if strategy in ("zero1", "zero2", "zero3") else ["sgd"]


@pytest.mark.parametrize(("strategy", "name"), [case for strategy in ZEROS for case in marked([strategy], *((name,) for name in cases_of(strategy)))])
def test_equal_to_one_process(strategy: str, name: str) -> None:
    tiny.assert_equal(results(strategy).trained[name], results("single").trained[name])


@pytest.mark.parametrize("strategy", marked(WITH_UNUSED))
@pytest.mark.parametrize("name", UNUSED)
def test_a_parameter_unused_in_a_step_has_a_zero_gradient(strategy: str, name: str) -> None:
    tiny.assert_equal(results(strategy).unused[name], results("ddp").unused[name])


def test_what_is_unused_makes_a_difference() -> None:
    losses = {name: trained.losses for name, trained in results("ddp").unused.items()} | {"sgd": results("ddp").trained["sgd"].losses}
    assert len({tuple(value) for value in losses.values()}) == 4


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_frozen_stays_bit_equal(strategy: str) -> None:
    start = results("single").initial
    for name, prefix in [("frozen-embedding", "embed"), ("frozen-block", "blocks.0")]:
        for key, value in results(strategy).trained[name].parameters.items():
            assert torch.equal(start[key], value) == key.startswith(prefix), key


@pytest.mark.parametrize("strategy", marked(ZEROS))
def test_initial_values_names_and_shapes_are_those_of_one_process(strategy: str) -> None:
    found, expected = results(strategy), results("single")
    assert found.initial.keys() == expected.initial.keys()
    assert all(torch.equal(found.initial[name], value) for name, value in expected.initial.items())
    assert found.names == expected.names  # of the tied model: one parameter, one name
    assert found.shapes == expected.shapes


@pytest.mark.parametrize("strategy", marked(ZEROS))
def test_bf16_keeps_fp32_state_and_is_near_ddp(strategy: str) -> None:
    found, expected = results(strategy), results("ddp").bf16
    assert found.dtypes == {torch.float32}
    assert found.bf16.losses == pytest.approx(expected.losses, rel=1e-2 if "zero3" in strategy else 1e-5)  # zero3 has a linear layer of its own
    assert found.bf16.losses != pytest.approx(results("single").trained["adamw"].losses[:3], rel=1e-6)  # it is not fp32


# -- steps that go wrong --------------------------------------------------------------------------


def bad_step(config: Config) -> tuple[list[tuple[int, int]], list[bool]]:
    """Per step (bad steps in a row, ranks with a bad loss), and whether the model stayed where it was."""
    from trainer.loop import ranks_with_bad_loss, train_steps

    engine, found, stayed = tiny.make_engine(config), [], []
    loader = tiny.loader(config, 1, 4)
    before = tiny.parameters(engine)
    for result in train_steps(engine, config.model, loader, config, 1, []):
        values, after = result.read(), tiny.parameters(engine)
        found.append((values.bad_in_a_row, len(ranks_with_bad_loss(result))))
        stayed.append(all(torch.equal(before[name], after[name]) for name in before))
        before = after
    loader.close()
    return found, stayed


@pytest.mark.parametrize("kind", ["loss", pytest.param("gradient", marks=pytest.mark.large)])
@pytest.mark.parametrize("strategy", [ZeRO1(), ZeRO3(param_persistence_threshold=0), ZeRO2(cpu_offload=True)])
def test_a_value_that_is_not_finite_on_one_rank_stops_all(strategy: ZeRO, kind: str) -> None:
    config = tiny.config(strategy, model=Tiny(nan_at=f"1:5:{kind}"))  # rank 1, in the second step
    for found, stayed in run(2, bad_step, config):
        assert found == [(0, 0), (1, 1 if kind == "loss" else 0), (2, 0), (3, 0)]
        assert stayed == [False, True, True, True]


@pytest.mark.parametrize(
    ("strategy", "use"),
    [
        (ZeRO2(), {"gate": "rank:1"}),
        (ZeRO2(), {"block1": "rank:1"}),
        (ZeRO3(param_persistence_threshold=0), {"extra": "rank:0"}),
        (ZeRO3(param_persistence_threshold=0), {"order": "rank:1"}),
    ],
)
def test_use_that_depends_on_the_rank_is_an_error_within_seconds(strategy: ZeRO, use: dict[str, str]) -> None:
    with pytest.raises(ranks.RankFailed, match=f"strategy={strategy.name}: the parameters that are used depend on the rank: in the same micro-batch"):
        run(2, tiny.train, tiny.config(strategy, model=Tiny(use=use)))


def test_zero1_takes_use_that_depends_on_the_rank() -> None:
    use = Tiny(use={"block1": "rank:1", "extra": "rank:0"})
    expected = run(2, tiny.train, tiny.config(DDP(find_unused_parameters=FindUnused.true), model=use))[0]
    found = run(2, tiny.train, tiny.config(ZeRO1(), model=use))[0]
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert found.norms == pytest.approx(expected.norms, rel=1e-5)


# -- memory and communication ---------------------------------------------------------------------


def fill_watched(config: Config) -> list[int]:
    """Elements of parameters that are whole on this rank before each part is filled, and at the end."""
    from trainer.materialise import blueprint

    assert config.strategy is not None
    samples = config.data.open("train")
    plan = blueprint(config.model, samples.spec, 0, torch.device("cpu"), torch.float32)
    held: list[int] = []

    def count() -> None:
        held.append(sum(p.numel() for p in plan.module.parameters() if not p.is_meta))

    def fill(part: torch.nn.Module) -> None:
        count()
        plan.fill(part)

    config.strategy.setup(dataclasses.replace(plan, fill=fill), config, tiny.mesh(config.strategy))
    count()
    return held


def test_zero3_holds_no_more_than_its_shard_and_one_block() -> None:
    for held in run(2, fill_watched, case(ZeRO3(param_persistence_threshold=0), "tied")):
        assert set(held) == {0}
        assert len(held) > 4


def exchanges(config: Config) -> tuple[list[str], list[str]]:
    """Collectives of the micro-batches of a step, and of its end."""
    engine: Any = tiny.make_engine(config)
    loader = tiny.loader(config, 1, 2)
    for item in loader:
        with tiny.Exchanges() as before:
            engine.forward_backward(item.batches, config.model.loss, torch.tensor(1.0), lambda loss: None)
        with tiny.Exchanges() as after:
            engine.step(1.0, config.optim.max_norm, 1.0)
    loader.close()
    return before.names, after.names


def test_zero1_exchanges_gradients_once_a_step() -> None:
    [(before, after), _] = run(2, exchanges, case(ZeRO1(), "sgd"))
    assert before == []
    assert after.count("allreduce_") > 0


def test_zero2_exchanges_gradients_in_every_micro_batch() -> None:
    config = case(ZeRO2(), "sgd")
    assert config.train.micro_batch_size == 2
    [(before, _), _] = run(2, exchanges, config)
    assert len(before) == config.train.global_batch_size // 2 // 2 > 1


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [ZeRO1(), ZeRO2(), ZeRO3()])
def test_fp64_is_refused_with_those_that_can(strategy: ZeRO) -> None:
    with pytest.raises(ConfigError, match=rf"^train.precision=fp64: strategy={strategy.name} keeps .*; use strategy=single, ddp or fsdp, or .*=fp32$"):
        strategy.check(tiny.config(strategy, precision=Precision.fp64), 2)


def test_offload_on_the_cpu_is_refused_or_warned_of() -> None:
    strategy = ZeRO3(cpu_offload=True)
    with pytest.raises(ConfigError, match=r"strategy.cpu_offload=true: has no effect with train.device=cpu"):
        strategy.check(tiny.config(strategy, device=Device.cpu), 2)
    strategy.check(tiny.config(strategy), 2)
    [warned] = run(1, warnings_of, tiny.config(strategy))
    assert any("strategy.cpu_offload=true: saves nothing on the CPU" in text for text in warned)


def warnings_of(config: Config) -> list[str]:
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny.make_engine(config)
    return [str(warning.message) for warning in caught]


def test_a_scalar_parameter_is_refused() -> None:
    with pytest.raises(ranks.RankFailed, match=r"strategy=zero2: parameter scale.weight is a scalar, which DeepSpeed cannot hold"):
        run(1, tiny.make_engine, tiny.config(ZeRO2(), model=Tiny(scalar=True)))


def test_knobs_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"strategy.reduce_bucket_size=0: must be at least 1"):
        ZeRO2(reduce_bucket_size=0).validate()
    with pytest.raises(ConfigError, match=r"strategy.max_live_parameters=-1: must be at least 0"):
        ZeRO3(max_live_parameters=-1).validate()


def test_not_installed_says_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"strategy=zero3 needs the package 'deepspeed', .*\[deepspeed\]"):
        ZeRO3().validate()


def test_its_config_is_checked_without_torch() -> None:
    code = "import sys; from trainer.strategies.deepspeed import ZeRO3; ZeRO3().validate(); assert not {'torch', 'deepspeed'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
