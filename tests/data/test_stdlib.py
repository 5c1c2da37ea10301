import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from trainer.data.stdlib import StandardLibrary
from trainer.data.tokenized import TokenizerKind


def test_modules_are_documents_split_by_their_path():
    train, evaluation = (StandardLibrary(packing=False, seq_len=1 << 20).open(split) for split in ("train", "eval"))
    texts = [{samples.decode(samples[i]["input_ids"]) for i in range(len(samples))} for samples in (train, evaluation)]
    root = Path(sysconfig.get_path("stdlib"))
    for name in ("json/decoder.py", "argparse.py", "asyncio/base_events.py"):
        assert (root / name).read_text(encoding="utf-8") in texts[0] | texts[1]
    assert 0.02 < len(evaluation) / (len(train) + len(evaluation)) < 0.1
    facts = train.describe()
    assert facts["documents"] == len(train)
    assert facts["tokens"] > 5e6
    assert 2.5 < facts["unigram_entropy"] < 4
    assert facts["source"] == f"the standard library of Python {sys.version.split()[0]}"


def test_default_samples():
    samples = StandardLibrary().open("train")
    assert samples.spec == {"vocab_size": 257, "seq_len": 128}
    assert samples.encode("def") == [100, 101, 102]
    np.testing.assert_array_equal(samples[4]["labels"][:-1], samples[4]["input_ids"][1:])
    assert samples[4]["labels"][-1] == samples[5]["input_ids"][0]


@pytest.mark.large
def test_bpe_on_the_standard_library_is_the_same_each_time(cache, monkeypatch):
    prints = []
    for number in (1, 2):
        monkeypatch.setenv("TRAINER_CACHE", str(cache / str(number)))
        samples = StandardLibrary(tokenizer=TokenizerKind.bpe, workers=number).open("train")
        prints.append(samples.fingerprint)
    assert prints[0] == prints[1]
    assert samples.spec["vocab_size"] == 4096
    assert samples.describe()["tokens"] < 4e6


def test_opening_imports_no_torch_and_the_config_no_numpy():
    script = """
import sys
from trainer.data import images, stdlib, synthetic, tabular, text
heavy = {"torch", "numpy", "pyarrow", "tokenizers", "sklearn", "PIL"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
stdlib.StandardLibrary().open("train")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
