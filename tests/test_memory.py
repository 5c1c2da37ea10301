import subprocess
import sys

from trainer.memory import peak_bytes


def test_the_peak_outlasts_the_memory():
    code = """
from trainer.memory import peak_bytes
before = peak_bytes("cpu")
block = b"x" * (64 * 2**20)
held = peak_bytes("cpu")
del block
print(held - before, peak_bytes("cpu") - held)
"""
    grown, after = map(int, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert 60 * 2**20 < grown < 80 * 2**20
    assert after > -(2**20)  # the kernel counts pages in batches


def test_it_is_in_bytes():
    assert 2**22 < peak_bytes("cpu") < 2**40
