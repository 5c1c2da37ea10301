"""Weights & Biases (extra `wandb`): one run there for one run directory, however often it is restarted."""

from __future__ import annotations

import netrc
import os
import uuid
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from trainer.errors import RunError, missing_extra
from trainer.state import Callback, RunInfo, StepInfo
from trainer.writing import write_whole, writing

if TYPE_CHECKING:
    from wandb import Run

RUN_ID = "wandb_id"
SITE = ("api.wandb.ai", "api.forge.coreweave.com")  # the public server: two names, one set of keys


def has_key(base_url: str) -> bool:
    """Whether an API key for the server is in the environment or in the netrc file. The key itself is left where it is."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    if not path.is_file():
        return False
    host = urlsplit(base_url).netloc
    try:
        entries = netrc.netrc(path)
    except netrc.NetrcParseError:  # wandb cannot read it either
        return False
    return any(entries.authenticators(name) for name in (SITE if host in SITE else (host,)))


def run_id(run_dir: Path) -> str:
    """The id of this directory's run, made when there is none yet and then always the same."""
    path = run_dir / RUN_ID
    if not path.exists():
        with writing(path):
            write_whole(path, uuid.uuid4().hex[:8])
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
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key(wandb.setup().settings.base_url) else "offline")
        try:
            self._run = wandb.init(
                project=self._project,
                name=self._name,
                id=run_id(self._run_dir),
                resume="allow",
                dir=self._run_dir,
                mode=mode,  # type: ignore[arg-type]
                config={**run.config, "facts": facts},
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.Error as error:
            raise RunError(
                f"wandb.enabled=true: Weights & Biases did not start: {error}. With WANDB_MODE=offline in the environment it needs no server"
            ) from error
        self._run.define_metric("*", step_metric="step")

    def on_steps(self, infos: Sequence[StepInfo]) -> None:
        assert self._run is not None
        for info in infos:
            self._run.log({"step": info.step, **{f"train/{key}": value for key, value in info._asdict().items() if key != "step"}})

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
