"""A real pre-trained model from the package index, fine-tuned for 20 steps under each strategy on 2 ranks."""

from __future__ import annotations

import json

import pytest

from tests.commands import ROOT, run

STRATEGIES = sorted(path.stem for path in (ROOT / "configs" / "strategy").glob("*.yaml") if path.stem != "single")
STEPS = 20


@pytest.fixture(scope="module")
def losses():
    """The losses of each strategy that has run."""
    return {}


@pytest.mark.large
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fine_tuning(strategy, smollm2, losses, tmp_path):
    arguments = [
        f"strategy={strategy}",
        "launcher.nproc_per_node=2",
        "model=hf",
        "model.path=smollm2",
        "data.tokenizer=hf",
        "data.tokenizer_path=smollm2",
        "data.seq_len=64",
        "train.global_batch_size=4",
        "train.micro_batch_size=1",
        f"train.max_steps={STEPS}",
        "optim.lr=1e-5",
        "eval.at_end=false",
        "model.sample_tokens=8",
        "run_dir=run",
    ]
    done = run(*arguments, cwd=tmp_path, timeout=1800, TRAINER_CACHE=str(smollm2))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dequantised Q4_1" in done.stdout
    losses[strategy] = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(losses[strategy]) == STEPS
    # A pre-trained model knows Python: far below the loss of a guess over its 49,152 tokens (10.8), and it falls.
    assert losses[strategy][0] < 5
    assert sum(losses[strategy][-5:]) < sum(losses[strategy][:5])
    other = next(iter(losses))
    assert losses[strategy] == pytest.approx(losses[other], rel=1e-3), f"{strategy} and {other} differ"
