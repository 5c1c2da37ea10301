import math

import pytest
import torch

from trainer.flops import GPUS, peak_flops


@pytest.mark.parametrize(
    ("name", "fp32", "bf16"),
    [
        ("NVIDIA H100 80GB HBM3", 67e12, 989.5e12),
        ("NVIDIA H100 PCIe", 51e12, 756.5e12),
        ("NVIDIA H100 NVL", 60e12, 835.5e12),
        ("NVIDIA H200", 67e12, 989.5e12),
        ("NVIDIA GH200 480GB", 67e12, 990e12),
        ("NVIDIA B200", 75e12, 2250e12),
        ("NVIDIA A100-SXM4-80GB", 19.5e12, 312e12),
        ("NVIDIA A100-PCIE-40GB", 19.5e12, 312e12),
        ("NVIDIA L4", 30.3e12, 121e12),
        ("NVIDIA L40S", 91.6e12, 362.05e12),
        ("NVIDIA GeForce RTX 4090", 82.6e12, 165.2e12),
        ("AMD Instinct MI300X", 163.4e12, 1307.4e12),
        ("Tesla V100-SXM2-16GB", 15.7e12, math.nan),  # no bf16 unit
        ("Tesla V100-PCIE-32GB", 14e12, math.nan),
        ("Tesla T4", 8.1e12, math.nan),
    ],
)
def test_gpus_by_the_name_their_driver_gives(name, fp32, bf16):
    assert peak_flops(name, "fp32")[0] == pytest.approx(fp32)
    assert peak_flops(name, "bf16")[0] == pytest.approx(bf16, nan_ok=True)


def test_no_peak_of_a_type_is_above_that_of_a_narrower_one():
    for pattern, peak, _ in GPUS:
        known = [value for value in peak if value is not None]
        assert known == sorted(known), pattern


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Some Future GPU", "Some Future GPU is not in the table of trainer/flops.py"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 Laptop GPU is not in the table of trainer/flops.py"),
        ("NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 D is not in the table of trainer/flops.py"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H100 80GB HBM3 MIG 1g.10gb is a slice of a GPU"),
    ],
)
def test_what_is_not_known_is_not_guessed(name, why):
    flops, source = peak_flops(name, "bf16")
    assert math.isnan(flops)
    assert source == why


def test_sources():
    assert peak_flops("NVIDIA H100 PCIe", "fp32")[1] == "dense fp32, no TF32, NVIDIA's data sheet"
    assert peak_flops("Tesla T4", "bf16")[1] == "no peak is published for bf16 on Tesla T4"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_the_cpu_is_measured_with_the_threads_of_this_process(precision):
    flops, source = peak_flops("cpu", precision)
    assert 1e7 < flops < 1e15  # a sanity check of units, not of speed
    threads = torch.get_num_threads()
    assert source == f"measured: the best {precision} 512 x 512 matrix product with {threads} thread{'' if threads == 1 else 's'} per process"
