"""run.json: what a run is made of, beside its numbers.

Shape: {"status", "started", "ended", "run", "versions", "hardware", "sessions", "facts"}. `status`
is running (or killed: nobody was left to say so), finished, stopped or failed; times are UTC in
ISO 8601; `run` holds the fields of `RunInfo` but the config; `sessions` has one entry for every
start whose steps are still part of the run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import trainer
from trainer.callbacks.metrics import finite
from trainer.errors import RunError
from trainer.state import Callback, RunInfo
from trainer.writing import write_whole, writing

RECORD = "run.json"
REPORT = "report.html"
PACKAGES = ("torch", "numpy", "hydra-core", "deepspeed", "ray", "accelerate", "transformers", "tokenizers", "datasets", "wandb")


def versions(*more: str) -> dict[str, str]:
    """Versions of Python and of those of the packages a result may depend on (and `more`) that are installed."""
    found = {"python": platform.python_version(), "trainer": trainer.__version__}
    for package in (*PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: str) -> dict[str, Any]:
    """The machine of rank 0."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"device": device, "system": platform.platform(), "cpus": os.cpu_count(), "memory_bytes": memory}


def read_record(run_dir: Path) -> dict[str, Any]:
    """run.json of `run_dir`; empty where there is none."""
    path = run_dir / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunRecord(Callback):
    """Writes run.json at the start and at the end, whole or not at all."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._record: dict[str, Any] = {}

    def on_start(self, run: RunInfo) -> None:
        values = {item.name: getattr(run, item.name) for item in dataclasses.fields(run) if item.name not in ("config", "run_dir")}
        earlier = [item for item in read_record(self._run_dir).get("sessions", []) if item["first_step"] < run.first_step]
        session = {key: values[key] for key in ("first_step", "strategy", "world_size", "device", "resumed_from")}
        started = _now()
        self._record = {
            "status": "running",
            "started": earlier[0]["started"] if earlier else started,
            "ended": None,
            "run": values,
            "versions": versions(),
            "hardware": hardware(run.device),
            "sessions": [*earlier, {"started": started, **session}],
            "facts": {},
        }
        self._write()

    def on_finish(self, status: str, facts: Mapping[str, Any]) -> None:
        self._record |= {"status": status, "ended": _now(), "facts": dict(facts)}
        self._write()

    def close(self) -> None:
        if self._record.get("status") == "running":
            self._record |= {"status": "failed", "ended": _now()}
            with suppress(RunError):  # what failed is being said; without this the status stays "running", as after a kill
                self._write()

    def _write(self) -> None:
        with writing(self._run_dir / RECORD):
            self._run_dir.mkdir(parents=True, exist_ok=True)
            write_whole(self._run_dir / RECORD, json.dumps(finite(self._record), indent=1, default=str, allow_nan=False))
