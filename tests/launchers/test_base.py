"""What launchers run on every rank."""

from __future__ import annotations

import inspect

import pytest

from trainer.explain.run import EXPLAIN
from trainer.launchers.base import TRAIN, load_work
from trainer.posttrain.run import CHECK, COMPRESS_WORK, MEASURE, PREPARE
from trainer.posttrain.source import IMPORT


@pytest.mark.parametrize("work", [TRAIN, IMPORT, CHECK, PREPARE, COMPRESS_WORK, MEASURE, EXPLAIN])
def test_every_work_can_be_called_as_every_launcher_calls_it(work: str) -> None:
    for given in ([None, None], [None, None, []], [None, None, [], print]):  # in this process under torchrun, in a child, in Ray
        inspect.signature(load_work(work)).bind(*given)
