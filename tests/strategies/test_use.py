"""Parameters that a step does not use: alike on all ranks they work, and where that depends on the rank it is allowed or refused."""

from __future__ import annotations

import pytest
import torch

from tests import ranks, tiny
from tests.tiny import Tiny, Trained
from trainer.config import Config
from trainer.strategies import agreement
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP, FindUnused
from trainer.strategies.fsdp import FSDP, HSDP
from trainer.strategies.single import Single

ALIKE = {
    "extra-odd": {"extra": "odd"},
    "extra-from": {"extra": "from:2"},
    "gate-until": {"gate": "until:2"},
    "block-odd": {"block1": "odd"},
    "block-until": {"block1": "until:3"},
    "all": {"block1": "odd", "extra": "from:3", "gate": "until:1"},
}


def configs(strategy: Strategy) -> dict[str, Config]:
    """One forward a step, and micro-batches (whose parity is the same on 1, 2 and 4 ranks)."""
    whole = {name: tiny.config(strategy, model=Tiny(use=use), micro_batch_size=None, max_steps=6) for name, use in ALIKE.items()}
    split = {f"{name}-micro": tiny.config(strategy, model=Tiny(use=use), max_steps=3) for name, use in ALIKE.items() if "odd" in name}
    return whole | split


def train_all(configs: dict[str, Config]) -> dict[str, Trained]:
    return {name: tiny.train(config) for name, config in configs.items()}


@pytest.fixture(scope="module")
def expected() -> dict[str, Trained]:
    return ranks.run(1, train_all, configs(Single()))[0]


@pytest.mark.parametrize(
    ("strategy", "world_size"),
    [
        (DDP(), 2),
        (DDP(find_unused_parameters=FindUnused.true), 2),
        pytest.param(DDP(find_unused_parameters=FindUnused.false), 2, marks=pytest.mark.large),
        (FSDP(), 2),
        pytest.param(FSDP(reshard_after_forward=False), 2, marks=pytest.mark.large),
        pytest.param(FSDP(no_sync=True), 2, marks=pytest.mark.large),
        (HSDP(), 2),
        pytest.param(HSDP(), 4, marks=pytest.mark.large),
        pytest.param(HSDP(no_sync=True), 4, marks=pytest.mark.large),
    ],
    ids=["ddp", "ddp-find", "ddp-never-find", "fsdp", "fsdp-keep", "fsdp-no-sync", "hsdp-2", "hsdp-4", "hsdp-no-sync"],
)
def test_unused_alike_is_equal_to_one_process(strategy: Strategy, world_size: int, expected: dict[str, Trained]) -> None:
    for trained in ranks.run(world_size, train_all, configs(strategy)):
        for name, wanted in expected.items():
            assert trained[name].losses == pytest.approx(wanted.losses, rel=1e-5), name
            assert trained[name].norms == pytest.approx(wanted.norms, rel=1e-5), name
            for key, value in wanted.parameters.items():
                torch.testing.assert_close(trained[name].parameters[key], value, rtol=1e-5, atol=1e-5)


def outcome(config: Config) -> str | Trained:
    """What training ends with on this rank, which then leaves, as a failed worker does."""
    agreement.FOLLOW_SECONDS = 2.0
    try:
        return tiny.train(config)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("find", [FindUnused.auto, FindUnused.false], ids=lambda find: find.name)
@pytest.mark.parametrize(("last", "of_one"), [(6, [0, 1, 2, 4, 5, 6]), (4, [0, 4])])
def test_a_parameter_unused_in_late_micro_batches_keeps_its_gradient(last: int, of_one: list[int], find: FindUnused) -> None:
    """Each of two ranks has 4 micro-batches a step, and uses it up to `last`, in the second step; one process has 8, and uses it in `of_one` of them."""
    one = ",".join(map(str, [*range(8), *(8 + forward for forward in of_one)]))
    alone = ranks.run(1, tiny.train, tiny.config(Single(), model=Tiny(use={"extra": f"among:{one}"}), max_steps=4))[0]
    for trained in ranks.run(2, tiny.train, tiny.config(DDP(find_unused_parameters=find), model=Tiny(use={"extra": f"until:{last + 1}"}), max_steps=4)):
        assert trained.losses == pytest.approx(alone.losses, rel=1e-5)
        assert trained.norms == pytest.approx(alone.norms, rel=1e-5)


@pytest.mark.parametrize("find", [FindUnused.auto, FindUnused.true, pytest.param(FindUnused.false, marks=pytest.mark.large)])
@pytest.mark.parametrize(("part", "when"), [("extra", "rank:1"), ("block1", "late:5"), pytest.param("block1", "rank:1", marks=pytest.mark.large)])
def test_ddp_allows_use_that_depends_on_the_rank(find: FindUnused, part: str, when: str) -> None:
    config = tiny.config(DDP(find_unused_parameters=find), model=Tiny(use={part: when}))
    start = ranks.run(1, initial, tiny.config(Single()))[0]
    first, second = ranks.run(2, tiny.train, config)
    assert first.norms == second.norms
    for name, value in first.parameters.items():
        assert torch.equal(value, second.parameters[name])
        assert not torch.equal(value, start[name])


def initial(config: Config) -> dict[str, torch.Tensor]:
    return tiny.parameters(tiny.make_engine(config))


@pytest.mark.parametrize(
    ("strategy", "part", "when"),
    [
        *((FSDP(), part, "rank:1") for part in ("extra", "gate", "block1", "order")),
        (FSDP(), "extra", "late:5"),
        *(pytest.param(FSDP(), part, "late:5", marks=pytest.mark.large) for part in ("gate", "block1", "order")),
        pytest.param(FSDP(no_sync=True, reshard_after_forward=False), "block1", "late:5", marks=pytest.mark.large),
        pytest.param(HSDP(), "extra", "late:5", marks=pytest.mark.large),
        pytest.param(HSDP(), "order", "rank:1", marks=pytest.mark.large),
    ],
    ids=lambda value: value.name if isinstance(value, Strategy) else value,
)
def test_fsdp_refuses_use_that_depends_on_the_rank(strategy: Strategy, part: str, when: str) -> None:
    """On any rank, one says what is wrong; the others find it gone. Without the check: a hang, an abort, or weights of another block."""
    told = ranks.run(2, outcome, tiny.config(strategy, model=Tiny(use={part: when})), timeout=60)
    named = [
        text
        for text in told
        if isinstance(text, str) and text.startswith(f"RunError: strategy={strategy.name}: the parameters that are used depend on the rank: ")
    ]
    assert named
    assert not any(isinstance(text, Trained) for text in told)
    assert named[0].endswith("use strategy=ddp, or use the same parameters on every rank")


def test_what_is_said_of_use_that_depends_on_the_rank() -> None:
    told = ranks.run(2, outcome, tiny.config(FSDP(), model=Tiny(use={"extra": "rank:1"})), timeout=60)
    assert any(
        "in the same micro-batch rank " in text and "no gradient for extra.weight, extra.bias" in text and "a gradient for every parameter" in text
        for text in told
    )
    told = ranks.run(2, outcome, tiny.config(FSDP(), model=Tiny(use={"block1": "late:5"})), timeout=60)
    assert any(
        "rank 1 has the gathering of blocks.2 where it had the gathering of blocks.1 before, and not every other rank did the same within 2 s" in text
        for text in told
    )
