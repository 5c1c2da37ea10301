"""After training: start the workers that compress, and say what they have found. Nothing here imports torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.config import Config

WORK = "trainer.posttrain.worker:run"


def posttrain(config: Config) -> None:
    """Do to the finished run of `config` what `config.compress` says, and print the table."""
    assert config.run_dir is not None
    if not config.compress:
        raise ConfigError("compress: is empty; say what is to be done, such as compress=[prune,quantize]")
    config.launcher.launch(config, WORK)
    out = output(Path(config.run_dir), chain_name(config))
    found = json.loads((out / "compress.json").read_text(encoding="utf-8"))
    print(f"compressed {out}")
    for key, value in found["before"].items():
        print(f"{key:12} {value:.6g} -> {found['after'][key]:.6g}")


def chain_name(config: Config) -> str:
    """What the chain is called: its methods in order."""
    return "-".join(config.compress)


def output(run_dir: Path, chain: str) -> Path:
    """The run directory of the compressed model."""
    return run_dir / "compressed" / chain
