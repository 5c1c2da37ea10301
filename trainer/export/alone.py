"""How much memory a file takes in a process of its own, with its runtime alone: python -m trainer.export.alone TARGET FILE INPUTS."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.errors import RunError
from trainer.export.base import Exporter

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(part: Exporter, path: Path, inputs: Sequence[Tensor]) -> int | None:
    """Bytes by which the resident memory of a process that has the runtime imported rises at most, while it loads `path` and runs `inputs` once.

    None: this system does not tell.
    """
    if not FORGET.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "inputs.safetensors"
        save_file({str(i): value.contiguous() for i, value in enumerate(inputs)}, given)
        target = f"{type(part).__module__}.{type(part).__qualname__}"
        command = [sys.executable, "-m", __name__, target, str(path.resolve()), str(given)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"{path.name}: cannot be run in a process of its own:\n{done.stderr.strip()[-2000:]}")
    return int(done.stdout.split()[-1])


def main(target: str, path: str, given: str) -> None:
    """Print the bytes."""
    from trainer.config import part_class

    part = part_class(target)
    assert issubclass(part, Exporter)
    stored = load_file(given)
    inputs = [stored[str(i)] for i in range(len(stored))]
    importlib.import_module(part.runtime)
    FORGET.write_text("5")  # the peak begins anew, at what is resident now (proc(5))
    before = _kibibytes("VmRSS")
    part.opened(Path(path), torch.get_num_threads())(inputs)
    print((_kibibytes("VmHWM") - before) * 1024)


def _kibibytes(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
