"""`prove.*` on the command line."""

from __future__ import annotations

import pytest

from trainer.errors import ConfigError
from trainer.prove.options import ProveOptions, split


def test_options_are_taken_and_the_rest_is_left():
    options, rest = split(["+strategy=fsdp", "prove.strategies=[ddp,fsdp]", "prove.ranks=[1,2]", "prove.steps=3", "optim.lr=1e-4", "prove.sgd_lr=0.1"])
    assert options == ProveOptions(strategies=["ddp", "fsdp"], ranks=[1, 2], steps=3, sgd_lr=0.1)
    assert rest == ["+strategy=fsdp", "optim.lr=1e-4"]
    assert split([]) == (ProveOptions(), [])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("prove.stepz=3", "unknown key 'prove.stepz'; did you mean 'prove.steps'?"),
        ("prove.steps=0", "prove.steps=0: must be at least 1"),
        ("prove.steps=many", "prove.steps=many: must be an integer"),
        ("prove.resume=perhaps", "prove.resume=perhaps: must be true or false"),
        ("prove.strategies=ddp", "prove.strategies=ddp: must be a list, which is written prove.strategies=[ddp]"),
        ("prove.ranks=2", "prove.ranks=2: must be a list, which is written prove.ranks=[2]"),
        ("prove.ranks=[two]", "prove.ranks[0]=two: must be an integer"),
        ("prove.steps=1,2", "prove.steps=1,2: one value, please; a list is written [a,b]"),
        ("prove.ranks=[]", "prove.ranks=[]: give numbers of processes, such as [1,2,4]"),
        ("prove.ranks=[0]", "prove.ranks=[0]: give numbers of processes, such as [1,2,4]"),
        ("prove.strategies=[]", "prove.strategies=[]: give names of strategies, such as [ddp,fsdp]; left out, all are proved"),
        ("prove.micro_batch_size=3", "prove.global_batch_size=8: must be more than 1 and a multiple of prove.micro_batch_size=3"),
        ("prove.global_batch_size=1", "prove.global_batch_size=1: must be more than 1 and a multiple of prove.micro_batch_size=1"),
        ("prove.timeout=0", "prove.timeout=0: must be more than 0"),
        ("prove.sgd_lr=0", "prove.sgd_lr=0: must be more than 0"),
    ],
)
def test_wrong_values(argument, message):
    with pytest.raises(ConfigError) as caught:
        split([argument])
    assert str(caught.value) == message
