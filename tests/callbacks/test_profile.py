import gzip
import json
from pathlib import Path

import pytest
import torch

from trainer.callbacks.profile import Profile, check_profile_steps
from trainer.errors import ConfigError


def train(first: int, last: int):
    """A loop as the trainer's: the work of a step is done as its result is taken."""
    for step in range(first, last + 1):
        with torch.profiler.record_function(f"work of step {step}"):
            torch.ones(8, 8) @ torch.ones(8, 8)
        yield step


def traced(path: Path) -> list[str]:
    with gzip.open(path, "rt") as file:
        events = json.load(file)["traceEvents"]
    assert any("mm" in event.get("name", "") for event in events)
    return sorted({event["name"] for event in events if event.get("name", "").startswith("work of step")})


@pytest.mark.parametrize(
    ("asked", "first", "last", "name", "steps"),
    [
        ([2, 3], 1, 5, "rank0-steps-2-3.json.gz", [2, 3]),
        ([1, 1], 1, 3, "rank0-steps-1-1.json.gz", [1]),
        ([2, 9], 1, 3, "rank0-steps-2-3.json.gz", [2, 3]),  # the run stops within the range
        ([2, 4], 3, 6, "rank0-steps-3-4.json.gz", [3, 4]),  # and is resumed there
    ],
)
def test_exactly_the_steps_asked_for_are_traced(tmp_path, asked, first, last, name, steps):
    assert list(Profile(tmp_path, asked).around(train(first, last), first)) == list(range(first, last + 1))
    assert [path.name for path in (tmp_path / "profile").iterdir()] == [name]
    assert traced(tmp_path / "profile" / name) == [f"work of step {step}" for step in steps]


@pytest.mark.parametrize(("asked", "first", "last"), [([], 1, 3), ([4, 5], 1, 3), ([1, 2], 3, 4)])
def test_no_trace_when_none_of_the_steps_is_run(tmp_path, asked, first, last):
    assert list(Profile(tmp_path, asked).around(train(first, last), first)) == list(range(first, last + 1))
    assert not (tmp_path / "profile").exists()


def test_an_error_within_the_range_keeps_the_trace_of_the_steps_before_it(tmp_path):
    def fail():
        yield from train(1, 2)
        raise RuntimeError("at step 3")

    with pytest.raises(RuntimeError, match="at step 3"):
        list(Profile(tmp_path, [2, 5], rank=3).around(fail(), 1))
    assert traced(tmp_path / "profile" / "rank3-steps-2-2.json.gz") == ["work of step 2"]


@pytest.mark.parametrize("steps", [[], [1, 1], [1, 20], [20, 20]])
def test_good_steps(steps):
    check_profile_steps(steps, 20)


@pytest.mark.parametrize("steps", [[3], [1, 2, 3], [5, 4], [0, 3], [-2, 3], [19, 21]])
def test_bad_steps(steps):
    with pytest.raises(ConfigError) as error:
        check_profile_steps(steps, 20)
    assert str(error.value) == (
        f"profile.steps={steps} is not a range of steps of this run; right would be [first, last] with "
        "1 <= first <= last <= 20 (train.max_steps), both included, or [] for no profile"
    )
