"""From meta to values: the same everywhere, a block at a time, with ties and buffers as built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import ranks, tiny
from tests.tiny import Tiny
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.materialise import blueprint, stable_seed
from trainer.models.base import Model
from trainer.strategies.fsdp import FSDP

CPU = torch.device("cpu")


def filled(model: Model, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    plan = blueprint(model, {}, seed, CPU, dtype)
    plan.fill(plan.module)
    return plan.module


def test_a_stable_seed_is_the_same_for_good() -> None:
    assert stable_seed(0, "model", 17) == 2982586902978168264
    assert stable_seed(0, "a", "b") != stable_seed(0, "ab")


def test_a_value_depends_on_seed_and_name_alone() -> None:
    """Not on what else there is, nor on the order in which it is filled, nor on the generator's state."""
    torch.manual_seed(1)
    full = filled(Tiny(layers=4)).state_dict()
    torch.manual_seed(2)
    plan = blueprint(Tiny(layers=2), {}, 0, CPU, torch.float32)
    for block in reversed(plan.blocks):
        plan.fill(block)
    plan.fill(plan.module)
    for name, value in plan.module.state_dict().items():
        assert torch.equal(value, full[name]), name
    assert not torch.equal(filled(Tiny(), seed=1).state_dict()["embed.weight"], full["embed.weight"])
    assert not torch.equal(full["blocks.0.up.weight"], full["blocks.1.up.weight"])


def test_filling_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    filled(Tiny())
    assert torch.equal(torch.rand(3), expected)


def test_fp64_has_the_values_of_fp32() -> None:
    narrow, wide = filled(Tiny(running_mean=True)).state_dict(), filled(Tiny(running_mean=True), dtype=torch.float64).state_dict()
    for name, value in wide.items():
        assert value.dtype is (torch.float64 if narrow[name].is_floating_point() else torch.int64), name
        assert torch.equal(value.to(narrow[name].dtype), narrow[name])


@pytest.mark.parametrize("tied", ["root", "blocks"])
def test_ties_are_kept(tied: str) -> None:
    module = filled(Tiny(tied=tied))
    if tied == "root":
        assert module.head.weight is module.embed.weight
    else:
        assert module.blocks[1].up.weight is module.blocks[0].up.weight
    assert len(list(module.parameters())) == len(list(filled(Tiny()).parameters())) - 1


def test_frozen_is_as_the_model_says() -> None:
    module = filled(Tiny(freeze="blocks.1"))
    assert {name for name, parameter in module.named_parameters() if not parameter.requires_grad} == {
        name for name, _ in module.named_parameters() if name.startswith("blocks.1.")
    }


class Table(nn.Module):
    """Buffers of both kinds, and no `reset_parameters`."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positions", torch.arange(4.0), persistent=False)
        self.register_buffer("scale", torch.full((2,), 3.0))
        self.weight = nn.Parameter(torch.randn(2, 4))


@dataclass(kw_only=True)
class Simple(Model):
    """A model of `Table`, which cannot be reset, with weights from elsewhere on request."""

    pretrained: bool = False
    without: str = ""

    def build(self, spec: Any) -> nn.Module:
        return nn.ModuleDict({"table": Table(), "linear": nn.Linear(4, 2)})

    def loss(self, module: nn.Module, batch: Any) -> Tensor:
        return module["linear"](batch["inputs"]).sum()  # type: ignore[index]

    def weights(self) -> Callable[[str], Tensor] | None:
        if not self.pretrained:
            return None
        values = {"table.scale": torch.tensor([1.0, 2.0]), "linear.weight": torch.ones(2, 4), "linear.bias": torch.zeros(2), "table.weight": torch.ones(2, 4)}
        values.pop(self.without, None)
        return values.__getitem__

    def initialise(self, module: nn.Module, leaf: nn.Module) -> None:
        if isinstance(leaf, Table):
            leaf.positions.copy_(torch.arange(4.0))  # type: ignore[operator]
        else:
            super().initialise(module, leaf)


class Unresettable(Simple):
    """As most people's first module: nothing but a constructor."""

    initialise = Model.initialise


def test_a_layer_without_reset_parameters_is_built_on_the_cpu() -> None:
    torch.manual_seed(1)
    first = filled(Unresettable())
    torch.manual_seed(2)
    second = filled(Unresettable())
    assert torch.equal(first["table"].positions, torch.arange(4.0))  # type: ignore[index]
    assert torch.equal(first["table"].scale, torch.full((2,), 3.0))  # type: ignore[index]
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(filled(Unresettable(), seed=1).state_dict()["table.weight"], first.state_dict()["table.weight"])


def test_pretrained_values_are_taken_and_other_buffers_made() -> None:
    module = filled(Simple(pretrained=True))
    assert torch.equal(module["table"].scale, torch.tensor([1.0, 2.0]))  # type: ignore[index]
    assert torch.equal(module["linear"].weight, torch.ones(2, 4))  # type: ignore[index]
    assert torch.equal(module["table"].positions, torch.arange(4.0))  # type: ignore[index]


@pytest.mark.parametrize("name", ["linear.bias", "table.weight"])
def test_a_pretrained_parameter_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        filled(Simple(pretrained=True, without=name))
    assert str(caught.value) == f"the pre-trained weights have no value for {name}; is it another model's file?"


def peak_while_sharding(config: Config) -> tuple[int, int, int]:
    """Elements of parameter storage alive at most while the model is made; of one block, the rest, and the whole."""
    import gc

    from torch.distributed.tensor import DTensor

    from trainer.strategies import fsdp_engine

    peak = 0

    def note() -> None:
        nonlocal peak
        gc.collect()
        sizes: dict[int, int] = {}
        for item in gc.get_objects():
            if isinstance(item, Tensor):
                local = item.to_local() if isinstance(item, DTensor) else item
                if not local.is_meta and local.untyped_storage().size():
                    sizes[local.untyped_storage().data_ptr()] = local.untyped_storage().size()
        peak = max(peak, sum(sizes.values()))

    original = fsdp_engine.fully_shard

    def watched(*args: Any, **kwargs: Any) -> Any:
        note()
        return original(*args, **kwargs)

    gc.freeze()  # what there was before is not looked at
    note()
    before, peak = peak, 0
    fsdp_engine.fully_shard = watched  # type: ignore[assignment]
    engine = tiny.make_engine(config)
    block = sum(parameter.numel() for name, parameter in engine.named_parameters() if name.startswith("blocks.0."))
    return (peak - before) // 4, block, engine.numel()


def test_no_rank_holds_more_than_its_shard_and_one_block() -> None:
    """12 blocks over 2 ranks: a whole model would be twice the shards."""
    for peak, block, whole in ranks.run(2, peak_while_sharding, tiny.config(FSDP(), model=Tiny(layers=12, dim=64))):
        assert whole / 2 < peak < whole / 2 + 1.2 * block


def test_llama_3_8b_is_built_without_memory() -> None:
    """8.03 billion parameters on meta."""
    from omegaconf import OmegaConf

    from trainer.config import config_dir, with_schema
    from trainer.memory import peak_bytes

    model: Any = OmegaConf.to_object(with_schema(OmegaConf.load(config_dir() / "model" / "llama3_8b.yaml")))
    before = peak_bytes("cpu")
    plan = blueprint(model, {"vocab_size": 128256, "seq_len": 8192}, 0, CPU, torch.float32)
    assert sum(parameter.numel() for parameter in plan.module.parameters()) == 8_030_261_248
    assert len(plan.blocks) == 32
    assert all(parameter.is_meta for parameter in plan.module.parameters())
    assert peak_bytes("cpu") - before < 200 * 2**20
