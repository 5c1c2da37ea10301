"""prove.json: everything that a proof found out, as plain values."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import trainer
from trainer.config import Config, to_plain
from trainer.prove.cells import Row
from trainer.prove.compare import LOSS_BAND, NORM_BAND, What, parameter_band
from trainer.prove.options import ProveOptions
from trainer.prove.reference import Reference
from trainer.prove.verdict import Verdict

FORMAT_VERSION = 1
PACKAGES = ("torch", "numpy", "deepspeed", "accelerate", "ray", "transformers")


def header(config: Config, base: Config, options: ProveOptions, reference: Reference, device: str, why: str) -> dict[str, Any]:
    """What was compared with what. `config` is the reference's, `base` the command line's."""
    optimizers = {
        name: {
            "lr": optim.lr,
            "weight_decay": optim.weight_decay,
            "parameter_band": parameter_band(optim.name.name),
            **reference.clips[name],
        }
        for name, optim in reference.optimizers.items()
    }
    return {
        "format_version": FORMAT_VERSION,
        "model": type(config.model).__name__.lower(),
        "parameters": reference.facts["parameters"],
        "data": reference.facts["data"],
        "device": device if device == "cpu" else reference.facts["device"],
        "device_reason": why,
        "precision": config.train.precision.name,
        "steps": options.steps,
        "resume_at": options.steps // 2 if options.resume else 0,
        "global_batch_size": options.global_batch_size,
        "micro_batch_size": options.micro_batch_size,
        "left_out": {
            "train.global_batch_size": base.train.global_batch_size,
            "train.micro_batch_size": base.train.micro_batch_size,
            "train.max_steps": base.train.max_steps,
        },
        "seed": config.train.seed,
        "loss_band": LOSS_BAND,
        "grad_norm_band": NORM_BAND,
        "optimizers": optimizers,
        "dropout": reference.facts["dropout"],
        "losses": {name: [step.loss for step in trace.steps] for name, trace in reference.traces.items()},
        "versions": {"trainer": trainer.__version__, **{name: version for name in PACKAGES if (version := _version(name))}},
        "config": to_plain(config),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def said(header: Mapping[str, Any]) -> list[str]:
    """The header in sentences."""
    clips = [
        f"{name}: rate {item['lr']:.3g}, clip {item['max_norm']:g} (binds in {item['bound_steps']} of {header['steps']} steps), "
        f"parameter band {item['parameter_band']:.0e}"
        for name, item in header["optimizers"].items()
    ]
    return [
        f"{header['model']}, {header['parameters']:,} parameters, {header['precision']} on {header['device']} ({header['device_reason']}); "
        f"{header['steps']} steps of {header['global_batch_size']} samples, {header['micro_batch_size']} in a micro-batch",
        *(
            [f"saved after step {header['resume_at']}, and gone on from there: from its own checkpoint bit for bit, from one process's within the bands"]
            if header["resume_at"]
            else []
        ),
        f"bands: loss {header['loss_band']:.0e}, gradient norm {header['grad_norm_band']:.0e}",
        *clips,
        f"dropout: set to 0 ({', '.join(header['dropout'])})" if header["dropout"] else "dropout: none in this model",
    ]


def document(header: Mapping[str, Any], rows: list[Row], control: Row, verdict: Verdict, seconds: float) -> dict[str, Any]:
    """All of it; infinite differences are written as null."""
    return {
        **header,
        "verdict": verdict.word,
        "reasons": verdict.lines,
        "seconds": round(seconds, 1),
        "control": _row(control),
        "rows": [_row(row) for row in rows],
    }


def _row(row: Row) -> dict[str, Any]:
    plain = asdict(row)
    for name, apart in plain["optimizers"].items():
        apart["findings"] = [{**finding, "what": What.WORDS[finding["what"]]} for finding in apart["findings"]]
        plain["optimizers"][name] = apart
    for resumed in plain["resumed"].values():
        resumed["crossed"]["findings"] = [{**finding, "what": What.WORDS[finding["what"]]} for finding in resumed["crossed"]["findings"]]
    return _finite(plain)


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


def sentence(document: Mapping[str, Any]) -> str:
    """The verdict in one sentence."""
    ran = [row for row in document["rows"] if row["optimizers"]]
    equal = sum(row["status"] == "equal" for row in ran)
    strategies = len({row["strategy"] for row in ran})
    match document["verdict"]:
        case "equal":
            resumed = ", save what it saves, and go on from it as if nothing had happened" if document["resume_at"] else ""
            return f"equal: {strategies} strategies in {len(ran)} runs train like one process{resumed}"
        case "inconclusive":
            return f"inconclusive: {equal} of {len(ran)} runs are within the bands, but that proves nothing here"
        case word:
            return f"{word}: {equal} of {len(document['rows'])} runs train like one process"
