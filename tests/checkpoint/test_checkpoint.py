"""Checkpoints: whole or not taken, verified before they are used, and checked against the run."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import ranks, tiny
from tests.tiny import Tiny
from trainer.checkpoint.directory import (
    MANIFEST,
    MODEL_IDENTITY,
    UNFINISHED,
    Damaged,
    directory,
    find,
    list_lost,
    list_unfinished,
    list_whole,
    read_manifest,
    remove,
    remove_after,
    remove_old,
    sealed,
    step_of,
)
from trainer.checkpoint.load import load
from trainer.checkpoint.ls import checkpoints
from trainer.checkpoint.save import save
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.sections import OptimizerName
from trainer.state import Position
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP
from trainer.strategies.deepspeed import ZeRO1, ZeRO3
from trainer.strategies.fsdp import FSDP, HSDP
from trainer.strategies.single import Single


def written(config: Config, step: int = 3) -> str:
    engine = tiny.make_engine(config)
    engine.init_optimizer_state(step)
    assert config.run_dir is not None
    return str(save(engine, Position(step, 100 * step), Path(config.run_dir), tiny.facts(config)))


def loaded(config: Config, path: Path) -> str:
    """What loading ends with on this rank."""
    engine = tiny.make_engine(config)
    try:
        return str(load(engine, path, tiny.facts(config)))
    except ConfigError as error:
        return str(error)


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(ranks.run(2, written, tiny.config(FSDP(), tmp_path_factory.mktemp("run")))[0])


@pytest.fixture
def saved(saved_once: Path, tmp_path: Path) -> Path:
    """A copy, which a test may change."""
    return Path(shutil.copytree(saved_once, tmp_path / saved_once.parent.name / saved_once.name))


def refused(saved: Path, **changes: Any) -> str:
    """What both ranks say of `saved`."""
    config = tiny.config(FSDP(), saved.parent.parent, **changes)
    first, second = ranks.run(2, loaded, config, saved)
    assert first == second
    return first


def test_comes_back_as_it_was(saved: Path) -> None:
    assert refused(saved) == "Position(step=3, tokens=300, skipped=0, passed_over=())"
    manifest = read_manifest(saved)
    assert sorted(manifest["files"]) == sorted(path.name for path in saved.glob("*.safetensors"))
    assert len(manifest["files"]) == 2
    for key, value in manifest.items():  # no line of it can change unnoticed
        (saved / MANIFEST).write_text(json.dumps(manifest | {key: 0 if value else 1}))
        with pytest.raises(Damaged):
            read_manifest(saved)


def test_without_a_manifest_it_is_not_taken(saved: Path) -> None:
    (saved / MANIFEST).unlink()
    run_dir = saved.parent.parent
    assert find(run_dir, "auto") is None
    with pytest.raises(ConfigError, match=r"is neither a whole checkpoint \(a directory with manifest.json\) nor a run directory with one; or use auto, never"):
        find(run_dir, str(saved))
    ranks.run(1, written, tiny.config(Single(), run_dir))  # written again by fewer ranks: nothing of the half-written one is left
    assert len(list(saved.glob("*.safetensors"))) == 1
    assert find(run_dir, "auto") == find(run_dir, str(saved)) == find(run_dir, str(run_dir)) == saved
    assert find(run_dir, "never") is None


def advice(saved: Path) -> str:
    return f"give another with checkpoint.resume=PATH, or checkpoint.resume=auto for the newest whole one of the run ({saved} is left as it is)"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_file_is_named(damage: str, saved: Path) -> None:
    file = sorted(saved.glob("*.safetensors"))[1]
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-9] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    what = "is missing" if damage == "missing" else "is not what was written"
    assert refused(saved) == f"{saved}: is damaged: {file.name} {what}; {advice(saved)}"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 3}'])
def test_a_damaged_manifest_is_named(text: str, tmp_path: Path) -> None:
    path = directory(tmp_path, 3)
    path.mkdir(parents=True)
    (path / MANIFEST).write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}: is damaged: {MANIFEST} cannot be read (")
    assert str(caught.value).endswith(advice(path))


def test_a_newer_format_is_refused(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    (saved / MANIFEST).write_text(json.dumps(sealed(manifest | {"format_version": 9})))
    told = f"{saved}: has format 9, newer than 1, the newest that this version reads"
    assert refused(saved) == told
    (saved / MANIFEST).write_text(json.dumps({"format_version": 9}))  # one that has nothing else in common with this one
    with pytest.raises(ConfigError) as caught:
        read_manifest(saved)
    assert (type(caught.value), str(caught.value)) == (ConfigError, told)


def test_another_model_is_refused(saved: Path) -> None:
    told = refused(saved, model=Tiny(layers=4, dim=8))
    assert told.startswith(
        f"{saved}: does not fit this model and optimizer: model.layers=3 there and model.layers=4 here; model.blocks.3.down.bias is missing there; "
    )
    assert told.endswith(" more). checkpoint.strict=false takes what fits and lists the rest")
    assert "model.blocks.0.gate.weight is (8, 8) there and (16, 16) here" in refused(saved, model=Tiny(dim=16))
    assert "optim.exp_avg.blocks.0.down.bias is unknown here" in refused(saved, optim={"name": OptimizerName.sgd})


def test_a_class_of_the_same_shapes_is_another_model(saved: Path) -> None:
    told = refused(saved, model=Rounder())
    name = "tests.checkpoint.test_checkpoint.Rounder"
    assert told == (
        f"{saved}: does not fit this model and optimizer: model is tests.tiny.Tiny there and {name} here. "
        "checkpoint.strict=false takes what fits and lists the rest"
    )
    manifest = json.loads((saved / MANIFEST).read_text())
    del manifest[MODEL_IDENTITY]  # written before there was one
    (saved / MANIFEST).write_text(json.dumps(sealed(manifest)))
    assert refused(saved, model=Rounder()).startswith("Position(step=3")


@dataclasses.dataclass(kw_only=True)
class Rounder(Tiny):
    """Another model, whose shapes are those of `Tiny`."""


@pytest.mark.parametrize(("key", "value", "there"), [("seed", 5, 0), ("global_batch_size", 16, 8)])
def test_another_order_of_the_data_is_refused(key: str, value: int, there: int, saved: Path) -> None:
    assert refused(saved, **{key: value}) == (
        f"train.{key}={value}: the checkpoint {saved} was made with {there}, and the samples that follow it depend on that; "
        f"give train.{key}={there}, or start again with checkpoint.resume=never or another run_dir="
    )


def test_other_data_is_refused(saved: Path) -> None:
    config = tiny.config(Single(), saved.parent.parent)
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, samples=65))
    (told,) = ranks.run(1, loaded, other, saved)
    assert told.startswith(f"data: is not what the checkpoint {saved} was trained on (fingerprint ")
    assert told.endswith("give the same data, or start again with checkpoint.resume=never or another run_dir=")


def test_keeps_the_newest_and_removes_later_ones(tmp_path: Path) -> None:
    for step in (3, 99_999_999, 100_000_000, 7):  # beyond eight digits names no longer sort by themselves
        directory(tmp_path, step).mkdir(parents=True)
        (directory(tmp_path, step) / MANIFEST).write_text("{}")
    directory(tmp_path, 5).mkdir()
    assert [path.name for path in list_whole(tmp_path)] == ["step-00000003", "step-00000007", "step-99999999", "step-100000000"]
    remove_after(tmp_path, 99_999_999)
    remove_old(tmp_path, keep=2)
    assert [path.name for path in list_whole(tmp_path)] == ["step-00000007", "step-99999999"]


def test_what_is_not_whole_goes_once_a_newer_one_is(tmp_path: Path) -> None:
    place = tmp_path / "checkpoints"
    for step in (2, 3, 4, 6):
        directory(tmp_path, step).mkdir(parents=True)
        (directory(tmp_path, step) / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"x")
        if step != 3:
            (directory(tmp_path, step) / UNFINISHED).touch()
    (place / "damaged-step-00000001").mkdir()
    (place / "step-00000001").symlink_to(place / "damaged-step-00000001")
    remove_old(tmp_path, keep=2)
    assert [step_of(path) for path in list_unfinished(tmp_path)] == [2, 4, 6]
    assert [step_of(path) for path in list_lost(tmp_path)] == [3]
    (directory(tmp_path, 4) / MANIFEST).write_text("{}")
    remove_old(tmp_path, keep=2)
    assert sorted(path.name for path in place.iterdir()) == ["damaged-step-00000001", "step-00000001", "step-00000003", "step-00000004", "step-00000006"]


def test_what_a_kill_leaves_of_a_removal_is_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is removed last, killed before each removal in turn."""
    files = [MANIFEST, "a.safetensors", "b.safetensors"]
    for survived in range(5):
        place = directory(tmp_path, 10 + survived)
        place.mkdir(parents=True)
        for name in files:
            (place / name).write_text("{}")
        left = iter(range(survived))

        def removal(original, left=left):
            def work(*given, **named):
                if next(left, None) is None:
                    raise KeyboardInterrupt
                return original(*given, **named)

            return work

        with monkeypatch.context() as patch:
            for owner, name in ((os, "unlink"), (os, "rename"), (os, "replace"), (os, "rmdir")):
                patch.setattr(owner, name, removal(getattr(owner, name)))
            with suppress(KeyboardInterrupt):
                remove(place)
        assert list_lost(tmp_path) == []
        assert (place in list_whole(tmp_path)) == (survived == 0)


def test_other_names_are_left_alone(tmp_path: Path) -> None:
    """A copy that somebody keeps beside them is no checkpoint of the run: it is not taken, counted or deleted."""
    copies = ["step-00000007-keep", "step-00000003.old", "step-7", "step-000000007", "step-", "damaged-step-00000009", "mine"]
    for name in ("step-00000003", "step-00000005", "step-00000007", *copies):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        if name != "step-00000005":
            (tmp_path / "checkpoints" / name / MANIFEST).write_text("{}")
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000003", "step-00000005", "step-00000007"]
    assert list_whole(tmp_path) == [directory(tmp_path, 3), directory(tmp_path, 7)]
    assert find(tmp_path, "auto") == directory(tmp_path, 7)
    remove_old(tmp_path, keep=1)
    assert list_whole(tmp_path) == [directory(tmp_path, 7)]
    remove_after(tmp_path, 3)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == sorted(copies)


def after_an_evaluation(config: Config) -> dict[str, tuple[torch.dtype, bool]]:
    """What would be saved once a forward pass has left parameters unsharded."""
    from trainer.loop import evaluate

    engine = tiny.make_engine(config)
    evaluate(engine, config.model, config.data.open("eval"), 4)
    return {name: (value.dtype, hasattr(value, "placements")) for name, value in engine.state_dict().items()}


@pytest.mark.parametrize("strategy", [FSDP(reshard_after_forward=False), HSDP(reshard_after_forward=False)], ids=["fsdp", "hsdp"])
def test_saves_shards_in_fp32_also_after_an_evaluation_in_bf16(strategy: Strategy) -> None:
    from trainer.sections import Precision

    state = ranks.run(2, after_an_evaluation, tiny.config(strategy, precision=Precision.bf16))[0]
    assert set(state.values()) == {(torch.float32, True)}


def written_and_held(config: Config) -> tuple[str, dict[str, int]]:
    """On a rank: (the checkpoint, elements that this rank held to write it)."""
    engine = tiny.make_engine(config)
    engine.init_optimizer_state(3)
    assert config.run_dir is not None
    path = save(engine, Position(3, 300), Path(config.run_dir), tiny.facts(config))
    own = {name: value.to_local() if hasattr(value, "to_local") else value for name, value in engine.state_dict().items()}
    return str(path), {kind: sum(value.numel() for name, value in own.items() if name.startswith(kind)) for kind in KINDS}


KINDS = {"model.": 1, "optim.": 2}
"""Elements of each kind for one of the model; AdamW has two moments."""
CUT: dict[str, tuple[Strategy, int, set[str]]] = {
    "ddp": (DDP(), 2, set()),
    "hsdp": (HSDP(), 4, {"model.", "optim."}),
    "fsdp": (FSDP(), 2, {"model.", "optim."}),
    "zero1": (ZeRO1(), 2, {"optim."}),
    "zero3": (ZeRO3(param_persistence_threshold=0), 2, {"model.", "optim."}),
}
"""What each cuts in two."""
deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="the extra `deepspeed` is not installed")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[deepspeed] if name.startswith("zero") else []) for name in CUT])
def test_each_value_is_written_once_and_no_rank_holds_the_whole_of_what_is_cut(name: str, tmp_path: Path) -> None:
    from safetensors import safe_open

    strategy, world_size, cut = CUT[name]
    preload = ["trainer.strategies.deepspeed_engine"] if name.startswith("zero") else []
    every = ranks.run(world_size, written_and_held, tiny.config(strategy, tmp_path), preload=preload)
    files = sorted(Path(every[0][0]).glob("*.safetensors"))
    assert len(files) == world_size
    model = sum(parameter.numel() for parameter in Tiny().build({}).parameters())
    for kind, count in KINDS.items():
        in_file = []
        for file in files:
            with safe_open(file, framework="pt") as opened:
                in_file.append(sum(opened.get_tensor(key).numel() for key in opened.keys() if key.startswith(kind)))  # noqa: SIM118
        assert sum(in_file) == count * model
        if kind in cut:  # in rows, of which one rank has one more where their number is odd
            assert max(in_file) <= max(held[kind] for _, held in every) <= 0.55 * count * model
