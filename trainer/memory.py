"""How much memory this process has needed at most."""

from __future__ import annotations

import resource
import sys


def peak_bytes(device_type: str) -> int:
    """Peak memory of this process so far: allocated by PyTorch on "cuda", else resident."""
    if device_type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    # Linux's ru_maxrss begins with what the process that started this one had resident; VmHWM does not.
    with open("/proc/self/status", "rb") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(b"VmHWM:"))
