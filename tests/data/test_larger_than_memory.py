"""A data set larger than the memory that the process is limited to is prepared and read at random: text, and a table by several ranks."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
import yaml

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


TABLE = f"""
import json, re, resource, sys
import numpy as np, pyarrow.parquet, pyarrow.compute, filelock, tqdm, yaml
from trainer.data.examine import ExamineOptions, examine
from trainer.data.tabular import Split, Tabular

def opened(path):
    data = Tabular(path=path, target="y", split=Split.stratified, schema=path + ".schema.yaml")
    data.validate()
    told = [one.level for one in examine(data, ExamineOptions()).told] if sys.argv[3] == "0" else []
    return told, data.open("train"), data.open("eval")

opened(sys.argv[1])  # a small one: threads are started, with their stacks
used = 1024 * int(re.search(r"VmData:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
limit = used + ({LIMIT} << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    open(sys.argv[2], "rb").read()
    whole = "fits"
except MemoryError:
    whole = "does not fit"
told, train, evaluation = opened(sys.argv[2])
indices = np.random.default_rng(0).integers(0, len(train), 500)
raw = train.raw(["x3"], indices)["x3"]
print(json.dumps({{"whole": whole, "fingerprint": train.fingerprint, "rows": len(train) + len(evaluation), "told": told,
                   "first": train.row_number(0), "raw": raw[:3].tolist(), "at": train.row_numbers[indices[:3]].tolist()}}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not enforce RLIMIT_DATA")
def test_a_table_larger_than_memory_over_two_ranks(tmp_path):
    columns = [f"x{number}" for number in range(20)]
    schema = pyarrow.schema([*((name, pyarrow.float64()) for name in columns), ("y", pyarrow.int64())])
    groups, rows = 12, 25_000
    for name, count in (("small", 1), ("large", groups)):
        (tmp_path / f"{name}.parquet.schema.yaml").write_text(yaml.safe_dump({"columns": {name: {"type": "number"} for name in [*columns, "y"]}}))
        with pyarrow.parquet.ParquetWriter(tmp_path / f"{name}.parquet", schema, compression="none", use_dictionary=False) as writer:
            for group in range(count):
                random = np.random.default_rng(group)
                writer.write_table(pyarrow.table([*random.normal(size=(20, rows)), random.integers(0, 2, rows)], schema=schema))
    command = [sys.executable, "-c", TABLE, str(tmp_path / "small.parquet"), str(tmp_path / "large.parquet")]
    environment = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"}  # the default takes a gigabyte of addresses at its start
    ranks = [subprocess.Popen([*command, str(rank)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for rank in range(2)]
    told = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told[0][1] + told[1][1]
    facts, other = (json.loads(out) for out, _ in told)
    assert facts["whole"] == other["whole"] == "does not fit"
    assert (facts["fingerprint"], other["told"]) == (other["fingerprint"], [])
    assert (facts["rows"], set(facts["told"])) == (groups * rows, {"ok"})
    column = np.concatenate([np.random.default_rng(group).normal(size=(20, rows))[3] for group in range(groups)])
    assert facts["raw"] == column[facts["at"]].tolist()
