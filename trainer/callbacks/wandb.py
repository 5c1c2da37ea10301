"""Weights & Biases (extra `wandb`): one run there for one run directory, however often it is restarted."""

from __future__ import annotations

import netrc
import os
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from trainer.errors import missing_extra
from trainer.state import Callback, RunInfo, StepInfo

if TYPE_CHECKING:
    from wandb import Run

RUN_ID = "wandb_id"
SITE = "https://api.wandb.ai"


def has_key() -> bool:
    """Whether an API key is in the environment or in the netrc file. The key itself is left where it is."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    if not path.is_file():
        return False
    try:
        return netrc.netrc(path).authenticators(urlsplit(os.environ.get("WANDB_BASE_URL", SITE)).netloc) is not None
    except netrc.NetrcParseError:  # wandb could not read it either
        return False


def run_id(run_dir: Path) -> str:
    """The id of this directory's run, made when there is none yet and then always the same."""
    path = run_dir / RUN_ID
    if not path.exists():
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
        os.replace(partial, path)
    return path.read_text(encoding="utf-8").strip()


class Wandb(Callback):
    """Logs steps and evaluations. Without an API key it records offline, for `wandb sync` later.

    The mode is online with a key and offline without one, unless WANDB_MODE is set. Steps that are
    done again after a restart appear again, at the same `step`: the x axis is `step`.

    Raises:
        ConfigError: wandb is not installed.
    """

    def __init__(self, run_dir: Path, project: str, name: str | None = None) -> None:
        if find_spec("wandb") is None:
            raise missing_extra("wandb", "wandb", "wandb.enabled=true")
        self._run_dir = run_dir
        self._project = project
        self._name = name or run_dir.resolve().name
        self._run: Run | None = None
        self._exit_code = 1

    def on_start(self, run: RunInfo) -> None:
        import wandb

        self._run_dir.mkdir(parents=True, exist_ok=True)
        facts = {"strategy": run.strategy, "world_size": run.world_size, "device": run.device, "parameters": run.parameters, "data": dict(run.data)}
        self._run = wandb.init(
            project=self._project,
            name=self._name,
            id=run_id(self._run_dir),
            resume="allow",
            dir=self._run_dir,
            mode=None if "WANDB_MODE" in os.environ else "online" if has_key() else "offline",
            config={**run.config, "facts": facts},
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("*", step_metric="step")

    def on_step(self, info: StepInfo) -> None:
        assert self._run is not None
        self._run.log({"step": info.step, **{f"train/{key}": value for key, value in vars(info).items() if key != "step"}})

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        assert self._run is not None
        self._run.log({"step": step, **{f"eval/{key}": value for key, value in metrics.items()}})

    def on_finish(self, status: str, facts: Mapping[str, Any]) -> None:
        assert self._run is not None
        self._exit_code = 0
        self._run.summary.update({"status": status, **{key: value for key, value in facts.items() if isinstance(value, (str, int, float))}})

    def close(self) -> None:
        if self._run is not None:
            self._run.finish(exit_code=self._exit_code)
