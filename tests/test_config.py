"""Configs as objects: checked against their dataclasses, written and read back."""

from __future__ import annotations

import sys

import pytest
import yaml

from trainer import config as configs
from trainer.cli import main
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.models.gpt import RopeScaling


def compose(*arguments: str) -> Config:
    """The config of a command line."""
    seen: list[Config] = []
    assert main(seen.append, list(arguments)) == 0
    return seen[0]


def test_no_strategy_is_single_or_ddp():
    assert compose().strategy.name == "single"
    assert compose("launcher.nproc_per_node=2").strategy.name == "ddp"


def test_the_wavelengths_are_stretched_as_the_presets_of_llama_3_say():
    llama = ["model=llama3_8b", "data=synthetic"]
    assert compose(*llama).model.stretching() is None
    assert compose(*llama, "model.rope_scaling.factor=8", "model.max_seq_len=131072").model.stretching() == RopeScaling(factor=8.0)


def test_a_strategy_of_several_processes_gets_two_where_there_is_no_gpu():
    config = compose("strategy=fsdp", "train.device=cpu")
    assert config.launcher.world_size(config) == 2


def test_a_saved_config_is_read_back_the_same(tmp_path):
    config = compose(
        "strategy=hsdp", "strategy.shard_size=2", "launcher.nproc_per_node=4", "model=mlp", "data=synthetic", "profile.steps=[1,2]", "optim.name=sgd"
    )
    configs.save(config, tmp_path / "config.yaml")
    assert configs.load(tmp_path / "config.yaml") == config


def test_a_part_is_recorded_with_its_import_path(tmp_path):
    configs.save(compose("strategy=fsdp"), tmp_path / "config.yaml")
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert saved["strategy"]["_target_"] == "trainer.strategies.fsdp.FSDP"
    assert saved["model"]["_target_"] == "trainer.models.gpt.GPT"


@pytest.mark.parametrize("target", ["os.system", "trainer.strategies.fsdp.Missing", "nowhere.Part", "trainer.state.Position", "FSDP", "subprocess.Popen"])
def test_only_parts_are_taken_from_a_config_file(target, tmp_path):
    configs.save(compose("strategy=fsdp"), tmp_path / "config.yaml")
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    saved["strategy"] = {"_target_": target}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    with pytest.raises(ConfigError, match=f"_target_={target}"):
        configs.load(tmp_path / "config.yaml")


def test_an_unknown_key_in_a_config_file_is_refused(tmp_path):
    configs.save(compose("strategy=fsdp"), tmp_path / "config.yaml")
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    saved["strategy"]["reshard"] = True
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    with pytest.raises(Exception, match="reshard"):
        configs.load(tmp_path / "config.yaml")


def test_a_part_of_somebody_else(tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(
        "from dataclasses import dataclass\nfrom trainer.strategies.single import Single\n@dataclass(kw_only=True)\nclass Mine(Single):\n    knob: int = 3\n"
    )
    (tmp_path / "configs" / "strategy").mkdir(parents=True)
    (tmp_path / "configs" / "strategy" / "mine.yaml").write_text("_target_: theirs.Mine\nknob: 4\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ["--config-dir", str(tmp_path / "configs"), "strategy=mine"]
    config = compose(*arguments)
    assert type(config.strategy).__name__ == "Mine"
    assert config.strategy.knob == 4
    assert compose(*arguments, "strategy.knob=5").strategy.knob == 5
    sys.modules.pop("theirs")


def test_names_differ_with_what_is_run_and_not_with_what_is_shown():
    names = [configs.default_name(compose(*arguments)) for arguments in ([], ["log.every=1"], ["train.seed=1"], ["launcher.nproc_per_node=2", "strategy=ddp"])]
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert names[0].startswith("gpt-single-")
