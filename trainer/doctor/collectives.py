"""The collectives of this process, from PyTorch's flight recorder: it sees those of DDP and FSDP too, and costs a step nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from trainer.doctor.record import Collective

KEPT = 200  # of the newest: more than a step has in most models

Numbers = dict[str, int]


def _recorders() -> list[tuple[str, Callable[..., bytes]]]:
    """(prefix of group names, function that tells) for Gloo, and for NCCL where PyTorch is built with it."""
    from torch._C import _distributed_c10d as c10d

    names = {"": "_dump_fr_trace_json", "nccl ": "_dump_nccl_trace_json"}
    return [(prefix, getattr(c10d, name)) for prefix, name in names.items() if hasattr(c10d, name)]


def numbers() -> tuple[Numbers, Numbers]:
    """Of each group, the number of the last collective entered, and of the last one left. Takes some microseconds."""
    entered: Numbers = {}
    left: Numbers = {}
    for prefix, dump in _recorders():
        for group, status in json.loads(dump(False, False)).get("pg_status", {}).items():
            entered[prefix + group] = int(status["last_enqueued_collective"])
            left[prefix + group] = int(status["last_completed_collective"])
    return entered, left


def recent() -> list[Collective]:
    """The newest collectives, oldest first. Takes some milliseconds."""
    found: list[Collective] = []
    for prefix, dump in _recorders():
        entries: list[dict[str, Any]] = json.loads(dump(True, False)).get("entries", [])
        found += [
            Collective(
                group=f"{prefix}{entry['pg_id']}",
                number=entry["collective_seq_id"],
                name=entry["profiling_name"].partition(":")[2],
                sizes=entry["input_sizes"],
                left=entry["retired"] or entry["state"] == "completed",
            )
            for entry in entries[-KEPT:]
            if not entry["is_p2p"]
        ]
    return found
