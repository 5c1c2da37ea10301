"""A chain gives the same on any number of ranks, none of which holds a parameter of a block whole."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tests import ranks
from tests.compress import small
from trainer.compress.base import Compressor
from trainer.compress.binarize import Binarize
from trainer.compress.binarize import Kind as Bits
from trainer.compress.low_rank import LowRank
from trainer.compress.prune import Importance, Prune, Scope
from trainer.compress.quantize import Kind, Quantize

WITHOUT_DATA: dict[str, list[Compressor]] = {
    "magnitude": [Prune(importance=Importance.magnitude, sparsity=0.4)],
    "whole-layer": [Prune(importance=Importance.magnitude, scope=Scope.layer)],
    "2:4": [Prune(importance=Importance.magnitude, pattern="2:4")],
    "svd": [LowRank(whiten=False, ratio=0.4)],
    "energy": [LowRank(whiten=False, ratio=None, energy=0.6)],
    "int8": [Quantize()],
    "int8-dynamic": [Quantize(kind=Kind.int8_dynamic)],
    "int4": [Quantize(kind=Kind.int4, group_size=6)],
    "binary": [Binarize(kind=Bits.binary)],
    "ternary": [Binarize(kind=Bits.ternary)],
    "prune-svd-int8": [Prune(importance=Importance.magnitude), LowRank(whiten=False, ratio=0.5), Quantize()],
}
CALIBRATED: dict[str, list[Compressor]] = {
    "wanda": [Prune(calibration_samples=18)],
    "wanda-2:4": [Prune(pattern="2:4", calibration_samples=18)],
    "scan": [Prune(zeros=0.6, calibration_samples=18, scan_samples=8)],
    "scan for a limit": [Prune(loss_rise=0.0005, importance=Importance.magnitude, scope=Scope.layer, scan_samples=8)],
    "whitened": [LowRank(ratio=0.4, calibration_samples=18)],
    "int8-static": [Quantize(kind=Kind.int8_static, calibration_samples=18)],
}


def all_of(chains: dict[str, list[Compressor]]) -> dict[str, dict[str, Tensor]]:
    return {name: small.compressed(parts)[0] for name, parts in chains.items()}


@functools.cache
def on(world_size: int) -> list[dict[str, dict[str, Tensor]]]:
    return ranks.run(world_size, all_of, WITHOUT_DATA | CALIBRATED, preload=["trainer.compress.integers"])


SEVERAL = [2, pytest.param(4, marks=pytest.mark.large)]


@pytest.mark.parametrize("world_size", SEVERAL)
@pytest.mark.parametrize("chain", WITHOUT_DATA)
def test_without_data_all_is_bit_equal(chain: str, world_size: int) -> None:
    expected = on(1)[0][chain]
    for found in on(world_size):
        assert list(found[chain]) == list(expected)
        for name, value in expected.items():
            assert torch.equal(found[chain][name], value), name


@pytest.mark.parametrize("world_size", SEVERAL)
@pytest.mark.parametrize("chain", CALIBRATED)
def test_calibrated_on_the_same_samples_all_is_nearly_equal(chain: str, world_size: int) -> None:
    expected = on(1)[0][chain]
    for found in on(world_size):
        for name, value in expected.items():
            assert torch.equal(found[chain][name] == 0, value == 0), name  # the masks
            torch.testing.assert_close(found[chain][name], value, rtol=1e-6, atol=1e-6)


def held() -> list[tuple[int, int]]:
    """(elements that this rank holds, all elements) of each parameter of the blocks."""
    now = small.subject(small.config())
    chain = [Prune(calibration_samples=18), LowRank(ratio=0.4, calibration_samples=18)]
    for part in chain:
        now = small.changed(now, part.run(now), small.config())
    assert any("down" in name for name, _ in now.engine.module.named_parameters())
    found = []
    for block in now.model.blocks(now.engine.module):
        for parameter in block.parameters():
            assert isinstance(parameter, DTensor)
            found.append((parameter.to_local().numel(), parameter.numel()))
    return found


def test_each_rank_holds_its_share_before_and_after() -> None:
    for found in ranks.run(2, held):
        assert sum(mine for mine, _ in found) == pytest.approx(sum(every for _, every in found) / 2, rel=0.1)
