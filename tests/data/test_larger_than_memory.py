"""A text set larger than the memory that the process is limited to is prepared and read at random."""

import json
import subprocess
import sys

import pytest

MEGABYTES = 96
LIMIT = 40  # megabytes beyond what the process has once everything is imported

SCRIPT = f"""
import json, re, resource, sys
import numpy as np
import trainer.data.records, trainer.data.shards, trainer.data.tokens, filelock, tqdm
from trainer.data.text import Text

path, evaluation = sys.argv[1:]
data = Text(paths=[path], eval_paths=[evaluation], seq_len=512, workers=1)
data.validate()
used = 1024 * int(re.search(r"VmData:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
limit = used + ({LIMIT} << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # file mappings do not count, everything else does
try:
    open(path, "rb").read()
    whole = "fits"
except MemoryError:
    whole = "does not fit"
samples = data.open("train")
order = np.random.default_rng(0).permutation(len(samples))[:2000]
total = sum(int(samples[int(i)]["input_ids"].sum()) for i in order)
print(json.dumps({{"whole": whole, "tokens": samples.describe()["tokens"], "documents": samples.describe()["documents"], "total": total,
                   "last": samples.decode(samples[len(samples) - 1]["input_ids"])}}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not enforce RLIMIT_DATA")
@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_text_larger_than_memory(tmp_path, suffix):
    path, evaluation = tmp_path / f"large.{suffix}", tmp_path / "eval.txt"
    evaluation.write_text("x" * 1000)
    line = "a text set larger than the memory of the process " * 20
    count = MEGABYTES * 10**6 // len(line)
    with path.open("w") as file:
        for number in range(count):
            text = f"{number} {line}\n"
            file.write(text if suffix == "txt" else json.dumps({"text": text}) + "\n")
    result = subprocess.run([sys.executable, "-c", SCRIPT, str(path), str(evaluation)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["whole"] == "does not fit"
    assert facts["documents"] == (1 if suffix == "txt" else count)
    expected = sum(len(f"{number} {line}\n") for number in range(count)) + facts["documents"]
    assert facts["tokens"] == expected
    assert "the process" in facts["last"]
