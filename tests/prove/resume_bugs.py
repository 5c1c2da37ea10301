"""Seeded bugs of saving and resuming: training itself is sound under each."""

from __future__ import annotations

import torch

from tests.prove.bugs import FROZEN, Spoilt, override
from trainer.strategies.ddp import DDP
from trainer.strategies.engine import Engine
from trainer.strategies.fsdp import FSDP


class MomentsForgotten(Spoilt, DDP):
    """Adam's moments start again at 0 after a checkpoint is read."""

    def change(self, engine: Engine) -> Engine:
        def forget(load):
            def forgetful(state):
                load(state)
                for name, value in state.items():
                    if name.startswith("optim.exp_avg."):
                        value.zero_()

            return forgetful

        return override(engine, "load_state_dict", forget)


class StepsForgotten(Spoilt, FSDP):
    """Adam's bias correction starts again at step 0."""

    def change(self, engine: Engine) -> Engine:
        return override(engine, "init_optimizer_state", lambda init: lambda step: init(0))


class FrozenNotSaved(Spoilt, DDP):
    """What is not trained is left out of the checkpoint."""

    def change(self, engine: Engine) -> Engine:
        def partial(state_dict):
            return lambda: {name: value for name, value in state_dict().items() if name != f"model.{FROZEN}"}

        return override(engine, "state_dict", partial)


class RoundedOnReading(Spoilt, FSDP):
    """The weights go through half precision when a checkpoint is read."""

    def change(self, engine: Engine) -> Engine:
        def rounded(load):
            def rounding(state):
                load(state)
                with torch.no_grad():
                    for _, parameter in engine.named_parameters():
                        parameter.copy_(parameter.bfloat16().float())

            return rounding

        return override(engine, "load_state_dict", rounded)


BUGS = (MomentsForgotten, StepsForgotten, FrozenNotSaved, RoundedOnReading)
