"""The proof cannot be fooled: mistakes put into real engines are all found, and their culprits named."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.commands import ROOT, environment
from tests.prove import resume_bugs
from tests.prove.bugs import BUGS

pytestmark = pytest.mark.timeout(900)

NORM, STEP_1 = "gradient norm", "differs first at step 1"
CULPRITS = {
    "AveragedTwice": [STEP_1, NORM, "off by a factor of 0.500: divided by the number of ranks (averaged twice?)"],
    "Summed": [STEP_1, NORM, "off by a factor of 2.000: multiplied by the number of ranks (summed, not averaged?)", "No parameter is outside its band"],
    "SameData": [STEP_1, "4 of the 8 samples", "every rank is fed the same samples", "First parameter that differs, at step 1: embed_tokens.weight"],
    "LocalClip": [STEP_1, "parameter embed_tokens.weight", "loss and gradient norm agree, so the cause lies after them: clip"],
    "NoClip": [STEP_1, "parameter embed_tokens.weight", "loss and gradient norm agree, so the cause lies after them: clip"],
    "LastMicroBatchDropped": [STEP_1, "2 of the 8 samples", "each rank leaves out one of its 4 micro-batches"],
    "AccumulationNotDivided": [STEP_1, NORM, "off by a factor of 4.000: multiplied by the number of micro-batches (accumulation not divided?)"],
    "MeanPerRank": [STEP_1, NORM, "a mean is taken on each rank", "First parameter that differs, at step 1"],
    "FirstMicroBatchAlone": [STEP_1, NORM, "First parameter that differs, at step 1"],
    "NeverSynchronised": [STEP_1, NORM, "the ranks hold different values of embed_tokens.weight: gradients are not exchanged"],
    "GradientsKept": ["differs first at step 2", NORM],
    "SchedulerPerRank": [STEP_1, "learning rate", "it is the rate of step 2: the scheduler is stepped 2 times a step?"],
    "NoDecay": [STEP_1, "layers.0.self_attn.q_proj.weight", "weight_decay for layers.0.self_attn.q_proj.weight and 13 more is 0.0 instead of 0.1"],
    "DecayEverything": [STEP_1, "embed_tokens.weight", "weight_decay for embed_tokens.weight and 3 more is 0.1 instead of 0.0"],
    "OtherBetas": ["under adamw, differs first at step 2", "betas for layers.0.self_attn.q_proj.weight and 18 more is [0.9, 0.999] instead of [0.9, 0.95]"],
    "OtherEpsilon": ["under adamw, differs first at step 1", "eps for layers.0.self_attn.q_proj.weight and 18 more is 1e-05 instead of 1e-08"],
    "FrozenUpdated": [STEP_1, "frozen parameter layers.0.input_layernorm.weight has moved"],
    "BuffersNotSynchronised": [STEP_1, "rank 1 holds other values of seen.total than rank 0", "buffers are not averaged over the ranks?"],
    "Untied": ["differs first at step 0", "lm_head.weight is a parameter of its own here, and tied or absent there"],
    "SeedByRank": ["differs first at step 0", "rank 1 holds other values of embed_tokens.weight than rank 0", "initial values depend on the rank?"],
    "OtherSeed": ["differs first at step 0", "initial values of embed_tokens.weight"],
    "HalfPrecision": [STEP_1, "First parameter that differs, at step 1: embed_tokens.weight"],
}


RESUME_CULPRITS = {
    "MomentsForgotten": [
        "under adamw, gone on from its own checkpoint of step 2, it is not bit-equal to the uninterrupted run: embed_tokens.weight after step 3"
    ],
    "StepsForgotten": ["under adamw, gone on from its own checkpoint of step 2, it is not bit-equal to the uninterrupted run: "],
    "FrozenNotSaved": ["ConfigError", "model.layers.0.input_layernorm.weight is unknown here"],
    "RoundedOnReading": ["under sgd, gone on from its own checkpoint of step 2", "embed_tokens.weight after step 2"],
}


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    out = tmp_path_factory.mktemp("bugs") / "prove.json"
    done = subprocess.run([sys.executable, "-m", "tests.prove.run_bugs", str(out)], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def row(document, strategy, ranks=2):
    (found,) = (item for item in document["rows"] if (item["strategy"], item["ranks"]) == (strategy, ranks))
    return found


def test_sound_strategies_pass_with_all_that_is_awkward(document):
    """Tied, frozen and unevenly long, with a buffer, accumulation and a clip that binds in every step."""
    for optimizer in document["optimizers"].values():
        assert optimizer["bound_steps"] == document["steps"]
    sound = [item for item in document["rows"] if item["strategy"] in ("single", "ddp", "fsdp", "hsdp")]
    assert len(sound) == 7
    for item in [document["control"], *sound]:
        assert (item["status"], item["reason"]) == ("equal", "")
    assert all(apart["bit_equal"] for apart in row(document, "single", 1)["optimizers"].values())


@pytest.mark.parametrize("bug", [kind.__name__ for kind in BUGS])
def test_a_seeded_bug_is_caught_and_named(document, bug):
    found = row(document, bug)
    assert found["status"] == "different"
    for words in CULPRITS[bug]:
        assert words in found["reason"]


@pytest.mark.parametrize(("strategy", "ranks"), [("ddp", 2), ("ddp", 4), ("fsdp", 2), ("fsdp", 4)])
def test_a_sound_strategy_saves_what_one_process_saves_and_goes_on_bit_for_bit(document, strategy, ranks):
    found = row(document, f"{strategy} resumed", ranks)
    assert (found["status"], found["reason"]) == ("equal", "")
    for name, resumed in found["resumed"].items():
        assert resumed["own_bit_equal"]
        assert resumed["saved"] <= document["optimizers"][name]["parameter_band"]
        assert resumed["crossed"]["findings"] == []


@pytest.mark.parametrize("bug", [kind.__name__ for kind in resume_bugs.BUGS])
def test_a_seeded_bug_of_resuming_is_caught_and_named(document, bug):
    found = row(document, bug)
    assert found["status"] in ("different", "failed")
    for words in RESUME_CULPRITS[bug]:
        assert words in found["reason"] + found["trace"]


def test_missing_decay_shows_under_adamw_too_though_the_rate_is_small(document):
    assert document["optimizers"]["adamw"]["lr"] == 1e-5
    apart = row(document, "NoDecay")["optimizers"]["adamw"]
    assert apart["parameters"] > 1e-3
    assert apart["loss"] < 1e-5


def test_adamw_hides_a_scale_that_the_gradient_norm_shows(document):
    apart = row(document, "AccumulationNotDivided")["optimizers"]["adamw"]
    assert apart["parameters"] < 1e-3
    assert apart["grad_norm"] == pytest.approx(3.0, rel=1e-4)


def test_cells_that_do_not_end_well_are_failed_rows(document):
    assert row(document, "Fails")["reason"] == "rank 1: ValueError: no such luck"
    assert "in setup" in row(document, "Fails")["trace"]
    assert row(document, "Dies")["reason"].startswith("rank 1: was ended by SIGKILL")
    assert row(document, "Hangs")["reason"].endswith("not done after 3 s (prove.timeout)")
    assert {row(document, name)["status"] for name in ("Fails", "Dies", "Hangs")} == {"failed"}


def test_the_verdict_names_every_culprit(document):
    assert document["verdict"] == "different"
    for name in (*CULPRITS, "Fails", "Dies", "Hangs"):
        assert any(line.startswith(f"{name} on 2 ranks: ") for line in document["reasons"])
