"""The trainer's own loop, run for a few steps on this rank, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer import checkpoint
from trainer.config import Config, from_plain
from trainer.data.base import Samples
from trainer.loader import Loader
from trainer.loop import train_steps
from trainer.strategies.engine import Engine
from trainer.worker import build_engine

GPT = {"_target_": "trainer.models.gpt.GPT", "layers": 2, "dim": 32, "heads": 2}
TOKENS = {"_target_": "trainer.data.synthetic.Synthetic", "vocab_size": 64, "seq_len": 16, "uneven": True}
BANDS = {"sgd": 1e-4, "adamw": 1e-3}  # greatest difference of a parameter, relative to its RMS movement


@dataclass
class Result:
    """A trajectory, and the parameters at both ends."""

    losses: list[float]
    norms: list[float]
    first: dict[str, Tensor]
    last: dict[str, Tensor]
    seen: Any = None


def plain_config(
    strategy: str, *, knobs: dict[str, Any] | None = None, model: dict[str, Any] | None = None, optim: str = "adamw", **sections: Any
) -> dict[str, Any]:
    """A small run under the strategy class `strategy` ("module.Class" in trainer.strategies); `sections` are merged over it."""
    plain: dict[str, Any] = {
        "strategy": {"_target_": f"trainer.strategies.{strategy}", **(knobs or {})},
        "model": {**GPT, **(model or {})},
        "data": TOKENS,
        "launcher": {"_target_": "trainer.launchers.local.Local"},
        "train": {"max_steps": 10, "global_batch_size": 8, "micro_batch_size": 2, "device": "cpu"},
        "optim": {"name": optim, "lr": 1e-3 if optim == "adamw" else 0.1, "max_norm": 0.5, "warmup_steps": 2},
    }
    for name, section in sections.items():
        plain[name] = {**plain.get(name, {}), **section}
    return plain


def train(plain: dict[str, Any], save: str | None = None, resume: str | None = None, look: Callable[[Engine], Any] | None = None) -> Result:
    """Train on this rank to `train.stop_at`; `save` and `resume` are run directories, `look` sees the engine at the end."""
    torch.manual_seed(0)
    config = from_plain(plain)
    samples: Samples = config.data.open("train")
    engine = build_engine(config, samples, torch.device("cpu"))
    position = checkpoint.Position(0, 0)
    if resume is not None:
        found = checkpoint.find(Path(resume), "auto")
        assert found is not None
        position = checkpoint.load(engine, found)
    first = dict(engine.full_tensors())
    result = Result([], [], {name: value.clone() for name, value in first.items()}, {})
    stop = config.train.stop_at or config.train.max_steps
    for values in _steps(engine, config, samples, position.step + 1, stop):
        assert not values.bad
        result.losses.append(values.loss)
        result.norms.append(values.grad_norm)
    result.last = {name: value.clone() for name, value in engine.full_tensors()}
    if save is not None:
        checkpoint.save(engine, checkpoint.Position(stop, 0), Path(save), {})
    result.seen = look(engine) if look is not None else None
    return result


def _steps(engine: Engine, config: Config, samples: Samples, first: int, last: int) -> Any:
    loader = Loader(
        samples,
        config.model,
        seed=config.train.seed,
        global_batch=config.train.global_batch_size,
        micro_batch=config.train.micro_batch_size,
        rank=dist.get_rank(),
        ranks=dist.get_world_size(),
        device=engine.device,
        steps=range(first, last + 1),
        prefetch=2,
        workers=1,
    )
    try:
        for result in train_steps(engine, config.model, loader, config, first, []):
            yield result.read()
    finally:
        loader.close()


def differences(a: Result, b: Result) -> tuple[float, float, float]:
    """Greatest relative difference of loss, of gradient norm, and of parameters (per tensor, relative to its movement or the model's)."""
    assert len(a.losses) == len(b.losses)
    assert a.last.keys() == b.last.keys()
    loss = max(abs(x - y) / abs(y) for x, y in zip(a.losses, b.losses, strict=True))
    norm = max(abs(x - y) / abs(y) for x, y in zip(a.norms, b.norms, strict=True))
    moved = {name: b.last[name] - b.first[name] for name in b.last}
    whole = _rms(torch.cat([value.flatten() for value in moved.values()]))
    return loss, norm, max(_rms(a.last[name] - b.last[name]) / max(_rms(moved[name]), whole) for name in moved)


def assert_equal(a: Result, b: Result, optim: str) -> None:
    """Within the bands of `prove`."""
    loss, norm, parameters = differences(a, b)
    assert loss < 1e-5
    assert norm < 1e-5
    assert parameters < BANDS[optim]


def _rms(value: Tensor) -> float:
    return float(value.double().square().mean().sqrt())
