"""What `train.precision` means: the dtype that parameters are kept in, and that of the arithmetic."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from trainer.sections import Precision


def param_dtype(precision: Precision) -> torch.dtype:
    """Parameters, gradients and optimizer state are kept in this."""
    return torch.float64 if precision is Precision.fp64 else torch.float32


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager:
    """Forward passes run under this."""
    return torch.autocast(device.type, torch.bfloat16) if precision is Precision.bf16 else nullcontext()
