"""What `python -m trainer.posttrain` is given first: the directory of a run, or a Hugging Face directory. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trainer.checkpoint.directory import list_whole, read_manifest
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.config import Config

IMPORT = "trainer.posttrain.worker:import_model"


class Source(NamedTuple):
    """Where the model comes from."""

    path: Path
    foreign: bool
    """It is a Hugging Face directory."""
    base: Path | None
    """The config.yaml that overrides change; None: the defaults."""
    overrides: list[str]


def source(given: Sequence[str]) -> Source:
    """What the arguments `given` mean, the first of which is a directory.

    Raises:
        ConfigError: it is none, or what else is needed is missing.
    """
    if not given or "=" in given[0] or given[0].startswith("-"):
        raise ConfigError("RUN_DIR: give the directory of a run first, such as python -m trainer.posttrain runs/x compress=[prune]")
    path, rest = Path(given[0]), list(given[1:])
    if (path / "config.yaml").is_file():
        if own := next((item for item in rest if item.lstrip("+").startswith("run_dir=")), None):
            raise ConfigError(f"{own}: the run is {path}, which comes first; its compressed models are kept in it")
        return Source(path, False, path / "config.yaml", rest)
    if not (path / "config.json").is_file():
        raise ConfigError(f"{path}: is neither the directory of a run (it has no config.yaml) nor a Hugging Face directory (it has no config.json)")
    if not any(path.glob("*.safetensors")):
        raise ConfigError(f"{path}: has no weights (model.safetensors, or its parts and their index)")
    if not any(item.lstrip("+").startswith(("data=", "data.")) for item in rest):
        raise ConfigError(
            f"data: is needed for {path}, to calibrate and to measure with; such as data=text data.path=FILE data.tokenizer=hf data.tokenizer_path={path}"
        )
    if own := next((item for item in rest if item.lstrip("+").startswith(("model=", "model.path="))), None):
        raise ConfigError(f"{own}: the model is that of {path}, which comes first")
    quoted = str(path.resolve()).replace("'", "\\'")
    return Source(path, True, None, ["model=hf", f"model.path='{quoted}'", *rest])


def bring_in(config: Config, path: Path) -> None:
    """Make the model at `path`, of `config`, the first checkpoint of `config.run_dir`, unless it is that already.

    Raises:
        ConfigError: `config.run_dir` has checkpoints of something else.
    """
    assert config.run_dir is not None
    run_dir, name = Path(config.run_dir), str(path.resolve())
    if whole := list_whole(run_dir):
        if read_manifest(whole[-1]).get("imported_from") != name:
            raise ConfigError(f"run_dir={run_dir}: has checkpoints of something else than {path}; give another")
        return
    config.launcher.launch(config, IMPORT)
