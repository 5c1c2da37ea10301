"""What a device could do at most: the peak that model FLOP utilisation is measured against."""

from __future__ import annotations

import math
import re
import time
from typing import NamedTuple

MATMUL = 512  # rows and columns: large enough to come near the peak, a few milliseconds each


class Peak(NamedTuple):
    """Dense peak of a GPU in TFLOP/s: tensor or matrix cores where they take the type, no sparsity, no TF32.

    None where the maker gives no number, or where the device has no unit for the type.
    """

    fp64: float | None
    fp32: float | None
    bf16: float | None


NVIDIA = "NVIDIA's data sheet"
# The first pattern found in the name that the driver gives decides: a special kind comes before the usual one.
# Where a data sheet gives tensor cores with sparsity only, the half of it.
GPUS: tuple[tuple[str, Peak, str], ...] = (
    (r"\bB200\b", Peak(37.0, 75.0, 2250.0), NVIDIA),
    (r"\bH200 NVL\b", Peak(60.0, 60.0, 835.5), NVIDIA),
    (r"\bH200\b", Peak(67.0, 67.0, 989.5), NVIDIA),
    (r"\bGH200\b", Peak(67.0, 67.0, 990.0), NVIDIA),
    (r"\bH100 NVL\b", Peak(60.0, 60.0, 835.5), NVIDIA),
    (r"\bH100 PCIe\b", Peak(51.0, 51.0, 756.5), NVIDIA),
    (r"\bH100\b", Peak(67.0, 67.0, 989.5), NVIDIA),
    (r"\bA100\b", Peak(19.5, 19.5, 312.0), NVIDIA),
    (r"\bL40S\b", Peak(None, 91.6, 362.05), NVIDIA),
    (r"\bL4\b", Peak(None, 30.3, 121.0), NVIDIA),
    (r"\bV100-PCIE\b", Peak(7.0, 14.0, None), NVIDIA),
    (r"\bV100-SXM\d\b", Peak(7.8, 15.7, None), NVIDIA),
    (r"\bT4\b", Peak(None, 8.1, None), NVIDIA),
    (r"\bRTX 4090(?! \w)", Peak(None, 82.6, 165.2), "NVIDIA's Ada architecture paper, fp32 accumulation"),
    (r"\bMI300X\b", Peak(163.4, 163.4, 1307.4), "AMD's data sheet"),
)


def peak_flops(device_name: str, precision: str) -> tuple[float, str]:
    """The peak of one process's device in FLOP per second, and where the number comes from.

    A GPU is looked up by the name its driver gives. For "cpu" the best of some matrix products is
    measured, as the cores' clock and vector units cannot be known in a virtual machine: it takes
    some tens of milliseconds and counts the threads that PyTorch uses in this process. Where
    several processes share a CPU, let all of them measure at once and add up.

    Args:
        device_name: "cpu", or for example "NVIDIA H100 80GB HBM3".
        precision: a name in `trainer.sections.Precision`.

    Returns:
        NaN, and why, where the peak is not known.
    """
    if device_name == "cpu":
        return _measured(precision)
    if re.search(r"\bMIG\b", device_name):
        return math.nan, f"{device_name} is a slice of a GPU"
    for pattern, peak, source in GPUS:
        if re.search(pattern, device_name):
            tera = getattr(peak, precision)
            if tera is None:
                return math.nan, f"no peak is published for {precision} on {device_name}"
            return tera * 1e12, f"dense {precision}{', no TF32' if precision == 'fp32' else ''}, {source}"
    return math.nan, f"{device_name} is not in the table of trainer/flops.py"


def _measured(precision: str) -> tuple[float, str]:
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}[precision]
    a = torch.ones(MATMUL, MATMUL, dtype=dtype)
    out = a @ a
    threads = torch.get_num_threads()
    clock = time.thread_time if threads == 1 else time.perf_counter  # where it can be: without what other programs take of the core meanwhile
    best = math.inf
    end = time.perf_counter() + 0.04
    while time.perf_counter() < end:
        start = clock()
        torch.mm(a, a, out=out)
        best = min(best, clock() - start)
    return (
        2 * MATMUL**3 / best,
        f"measured: the best {precision} {MATMUL} x {MATMUL} matrix product with {threads} thread{'' if threads == 1 else 's'} per process",
    )
