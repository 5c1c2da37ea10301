"""How much memory this process has needed at most."""

from __future__ import annotations

import resource
import sys


def peak_bytes(device_type: str) -> int:
    """Peak memory of this process so far: allocated by PyTorch on "cuda", else resident.

    A process that was forked counts what its parent had resident then.
    """
    if device_type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB on Linux
