"""The arithmetic of the proof, on numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.prove.compare import (
    What,
    buffer_difference,
    compare,
    parameter_band,
    parameter_differences,
    ratio,
    relative,
    rms,
    sketched_differences,
    whole_movement,
)
from trainer.prove.sketch import WIDTH, Sketches, digest
from trainer.prove.trace import Split, Step, Trace

INITIAL = {"w": np.array([1.0, 1.0, 1.0, 1.0]), "b": np.array([0.0, 0.0])}
REFERENCE = {"w": np.array([1.3, 1.4, 1.0, 1.0]), "b": np.array([0.01, 0.0])}


def trace(*states: dict[str, np.ndarray], norms=None, losses=None, rates=None, samples=None, frozen=(), buffers=()) -> Trace:
    sketch = Sketches()
    count = len(states) - 1
    steps = [
        Step((losses or [1.0] * count)[i], (norms or [2.0] * count)[i], (rates or [0.1] * count)[i], (samples or [[["a"], ["b"]]] * count)[i], [3, 3])
        for i in range(count)
    ]
    names = list(states[0])
    return Trace(
        names=names,
        numel=[states[0][name].size for name in names],
        frozen=list(frozen),
        buffers=list(buffers),
        steps=steps,
        digests=[[digest(state[name]) for name in names] for state in states],
        sketches=np.array([[sketch(name, state[name]) for name in names] for state in states]),
    )


def against(ours: Trace, theirs: Trace, final: dict[str, float] | None = None, optimizer: str = "sgd", same_buffers: frozenset[str] = frozenset()):
    return compare(ours, theirs, final or {}, optimizer, same_buffers)


def test_bands_are_those_of_the_issue():
    from trainer.prove import compare

    assert (compare.LOSS_BAND, compare.NORM_BAND, parameter_band("sgd"), parameter_band("adamw"), parameter_band("adam")) == (1e-5, 1e-5, 1e-4, 1e-3, 1e-3)


@pytest.mark.parametrize(
    ("value", "reference", "expected"),
    [(3.0, 2.0, 0.5), (2.0, -2.0, 2.0), (0.0, 0.0, 0.0), (1.0, 0.0, math.inf), (math.nan, 1.0, math.inf), (1.0, math.nan, math.inf)],
)
def test_relative(value, reference, expected):
    assert relative(value, reference) == expected


def test_rms_and_ratio():
    assert rms(np.array([[3.0, 4.0]], dtype=np.float32)) == math.sqrt(12.5)
    assert rms(np.array([])) == 0.0
    assert ratio(0.0, 0.0) == 0.0
    assert ratio(1.0, 0.0) == math.inf
    assert ratio(1.0, 4.0) == 0.25


def test_parameter_differences():
    # w moves by (0.3, 0.4, 0, 0): rms 0.25. b moves by (0.01, 0): rms 0.00707. Both: sqrt(0.2501 / 6) = 0.20416...
    assert whole_movement(["w", "b"], REFERENCE.__getitem__, INITIAL.__getitem__) == pytest.approx(math.sqrt(0.2501 / 6), rel=1e-12)
    ours = {"w": REFERENCE["w"] + [0.0, 0.0, 0.0, 0.05], "b": REFERENCE["b"] + [0.0, 0.02]}
    apart = parameter_differences(["w", "b"], ours.__getitem__, REFERENCE.__getitem__, INITIAL.__getitem__)
    assert apart["w"] == pytest.approx(0.025 / 0.25, rel=1e-9)  # its own movement is the larger
    assert apart["b"] == pytest.approx(0.02 / math.sqrt(2) / math.sqrt(0.2501 / 6), rel=1e-9)  # it hardly moved: the model's


def test_small_tensors_are_sketched_exactly():
    ours = {"w": REFERENCE["w"] + [0.0, 0.0, 0.0, 0.05], "b": REFERENCE["b"]}
    found = sketched_differences(trace(INITIAL, ours), trace(INITIAL, REFERENCE), 1)
    assert found == {"w": pytest.approx(0.1, rel=1e-9)}


def test_a_sketch_tells_a_distance_within_a_tenth():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 300, 500)).astype(np.float32)
    sketch = Sketches()
    seen = np.linalg.norm(sketch("w", a) - sketch("w", b))
    assert seen == pytest.approx(np.linalg.norm((a.astype(np.float64) - b).reshape(-1)), rel=0.15)
    assert sketch("w", a).shape == (WIDTH,)
    assert not np.array_equal(sketch("w", a), sketch("v", a))


def test_equal_runs_are_bit_equal():
    apart = against(trace(INITIAL, REFERENCE), trace(INITIAL, REFERENCE), {"w": 0.0, "b": 0.0})
    assert apart.bit_equal
    assert apart.findings == []
    assert (apart.loss, apart.grad_norm, apart.parameters) == (0.0, 0.0, 0.0)


def test_a_last_bit_is_no_finding_but_not_bit_equal():
    ours = {**REFERENCE, "w": np.nextafter(REFERENCE["w"], 9)}
    apart = against(trace(INITIAL, ours), trace(INITIAL, REFERENCE), {"w": 1e-15, "b": 0.0})
    assert not apart.bit_equal
    assert apart.findings == []


def test_the_first_step_and_parameter_outside_are_named():
    second = {"w": REFERENCE["w"] + 0.1, "b": REFERENCE["b"]}
    ours = trace(INITIAL, REFERENCE, {"w": second["w"] + 1e-3, "b": second["b"] + 1e-3})
    apart = against(ours, trace(INITIAL, REFERENCE, second), {"w": 3e-3, "b": 4e-3})
    (found,) = apart.findings
    assert (found.step, found.what, found.name) == (2, What.PARAMETERS, "w")
    assert "and 1 more" in found.text
    assert (apart.parameters, apart.worst) == (4e-3, "b")


def test_what_is_outside_for_sgd_is_inside_for_adamw():
    ours = {"w": REFERENCE["w"] + 1e-4, "b": REFERENCE["b"]}
    runs = trace(INITIAL, ours), trace(INITIAL, REFERENCE)
    assert against(*runs, {"w": 4e-4}, "sgd").findings
    assert not against(*runs, {"w": 4e-4}, "adamw").findings


def test_the_first_cause_comes_first():
    states = INITIAL, REFERENCE, REFERENCE
    ours = trace(*states, losses=[1.0, 1.1], norms=[2.0, 4.0], rates=[0.1, 0.2])
    found = against(ours, trace(*states)).findings
    assert [(finding.step, finding.what) for finding in found] == [(2, What.LOSS), (2, What.NORM), (2, What.RATE)]
    assert "0.2 instead of 0.1" in found[2].text


def test_samples_are_compared_as_a_set_over_all_ranks():
    states = INITIAL, REFERENCE
    swapped = trace(*states, samples=[[["b"], ["a"]]])
    assert not against(swapped, trace(*states)).findings
    (found,) = against(trace(*states, samples=[[["a"], ["a"]]]), trace(*states)).findings
    assert (found.step, found.what) == (1, What.SAMPLES)
    assert found.text.startswith("1 of the 2 samples")


def test_a_frozen_parameter_is_compared_with_its_initial_value():
    moved = {**REFERENCE, "f": np.array([1.0 + 1e-9])}
    still = {**REFERENCE, "f": np.array([1.0])}
    start = {**INITIAL, "f": np.array([1.0])}
    (found,) = against(trace(start, moved, frozen=["f"]), trace(start, still, frozen=["f"]), {"w": 0.0}).findings
    assert (found.step, found.what, found.name) == (1, What.FROZEN, "f")


def test_an_untied_parameter_is_a_parameter_too_many():
    more = [{**state, "head": state["b"]} for state in (INITIAL, REFERENCE)]
    (found,) = against(trace(*more), trace(INITIAL, REFERENCE)).findings
    assert (found.step, found.what, found.name) == (0, What.TIES, "head")


def test_other_initial_values_and_ranks_that_differ():
    start = {**INITIAL, "b": np.array([0.0, 1e-12])}
    (found,) = against(trace(start, REFERENCE), trace(INITIAL, REFERENCE)).findings
    assert (found.step, found.what, found.name) == (0, What.INITIAL, "b")
    ours = trace(INITIAL, REFERENCE)
    ours.split = Split(1, "w", [1])
    (found,) = against(ours, trace(INITIAL, REFERENCE)).findings
    assert (found.step, found.what, found.name) == (1, What.RANKS, "w")


def test_buffers_are_compared_where_the_control_left_them_alike():
    start, theirs = {**INITIAL, "seen": np.array([0.0])}, {**REFERENCE, "seen": np.array([2.0])}
    runs = trace(start, {**REFERENCE, "seen": np.array([3.0])}, buffers=["seen"]), trace(start, theirs, buffers=["seen"])
    assert buffer_difference(*runs, 1, "seen") == 0.5
    assert not against(*runs, {"w": 0.0}).findings
    (found,) = against(*runs, {"w": 0.0}, same_buffers=frozenset(["seen"])).findings
    assert (found.step, found.what, found.name) == (1, What.BUFFERS, "seen")
