"""What the methods' papers say of large models, on a small real one: SmolLM2-135M, which reads the source of the standard library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import run

pytestmark = [pytest.mark.large, pytest.mark.timeout(3600)]
WITH = ["data=stdlib", "data.tokenizer=hf", "data.tokenizer_path=smollm2", "data.seq_len=128", "model.sample_tokens=0", "eval.batch_size=4"]
MEASURED = ["posttrain.evaluation_samples=16", "posttrain.latency_pairs=0"]
IN_BLOCKS = 106_168_320  # of 134,515,008 parameters: all but the embedding, which is the output too, and norms


def compressed(cache: Path, run_dir: Path, knob: str, *more: str) -> dict[str, dict]:
    """compress.json of each value of `knob`, which is swept over."""
    (model,) = cache.glob("assets/smollm2-*/")
    done = run(
        str(model), "-m", *WITH, *MEASURED, *more, f"run_dir={run_dir}", cwd=run_dir.parent, module="trainer.posttrain", timeout=3000, TRAINER_CACHE=str(cache)
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    method, _, key = knob.removeprefix("compress.").partition(".")
    found = [json.loads(path.read_text()) for path in run_dir.glob("compressed/*/compress.json")]
    return {str(each["chain"][method][key]): each for each in found}


def perplexity(found: dict, when: str = "after") -> float:
    return found[when]["metrics"]["perplexity"]["value"]


def test_half_of_the_weights_chosen_by_wanda_are_missed_less_than_half_chosen_by_magnitude(smollm2, tmp_path):
    """Measured: perplexity 12.5 before, 24.2 after Wanda, 295.6 after magnitude pruning."""
    knob = "compress.prune.importance"
    found = compressed(smollm2, tmp_path / "run", knob, "compress=[prune]", f"{knob}=magnitude,wanda", "compress.prune.calibration_samples=16")
    wanda, magnitude = found["wanda"], found["magnitude"]
    assert perplexity(wanda, "before") == perplexity(magnitude, "before")
    for each in (wanda, magnitude):
        gone = each["before"]["nonzero_parameters"] - each["after"]["nonzero_parameters"]
        assert gone == pytest.approx(0.5 * IN_BLOCKS, rel=1e-3)  # a few were zero before
    assert wanda["difference"]["perplexity"]["low"] > 0
    assert perplexity(wanda) < perplexity(magnitude)
    assert wanda["after"]["metrics"]["perplexity"]["high"] < magnitude["after"]["metrics"]["perplexity"]["low"]


def test_at_a_fifth_fewer_parameters_whitened_svd_is_far_better_than_plain(smollm2, tmp_path):
    """Measured: perplexity 12.5 before, 31.0 after the whitened (49.8 with as much saved in every layer), 55327 after the plain one."""
    knob = "compress.low_rank.whiten"
    chain = ["compress=[low_rank]", f"{knob}=true,false", "compress.low_rank.ratio=0.26", "compress.low_rank.calibration_samples=32"]
    found = compressed(smollm2, tmp_path / "run", knob, *chain)
    whitened, plain = found["True"], found["False"]
    for each in (whitened, plain):
        assert 0.79 < each["after"]["parameters"] / each["before"]["parameters"] < 0.8
    assert perplexity(whitened) < 0.1 * perplexity(plain)
