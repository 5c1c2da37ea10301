"""`drill.*` on the command line."""

from __future__ import annotations

import pytest

from trainer.drill.options import FAULTS, DrillOptions, split
from trainer.errors import ConfigError


def test_options_are_taken_and_the_rest_is_left():
    options, rest = split(["+strategy=fsdp", "drill.steps=8", "drill.seed=3", "drill.faults=[kill,nan]", "optim.lr=1e-4", "drill.timeout=60"])
    assert options == DrillOptions(steps=8, seed=3, faults=["kill", "nan"], timeout=60)
    assert rest == ["+strategy=fsdp", "optim.lr=1e-4"]
    assert split([]) == (DrillOptions(faults=FAULTS), [])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("drill.stepz=3", "unknown key 'drill.stepz'; did you mean 'drill.steps'?"),
        ("drill.steps=5", "drill.steps=5: must be at least 6, so that there is a checkpoint before a fault and one after it"),
        ("drill.steps=many", "drill.steps=many: must be an integer"),
        ("drill.faults=kill", "drill.faults=kill: must be a list, which is written drill.faults=[kill]"),
        ("drill.seed=1,2", "drill.seed=1,2: one value, please; a list is written [a,b]"),
        ("drill.seed=-1", "drill.seed=-1: must be at least 0"),
        ("drill.timeout=0", "drill.timeout=0: must be more than 0"),
        ("drill.faults=[]", "drill.faults=[]: give names of faults, such as [kill,damage]; left out, all are rehearsed"),
        ("drill.faults=[kil]", "drill.faults: there is no fault 'kil'; did you mean 'kill'?"),
    ],
)
def test_wrong_values(argument, message):
    with pytest.raises(ConfigError) as caught:
        split([argument])
    assert str(caught.value) == message
