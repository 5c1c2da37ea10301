"""A subject of compression on a rank: a model with its fresh values, cut over the ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from tests import tiny
from trainer.compress.subject import Change, Subject, whole
from trainer.config import Config
from trainer.models.base import Model
from trainer.posttrain import values
from trainer.strategies.single import Single


def fresh(model: Model) -> tuple[Subject, Config]:
    """A collective. The values are a function of the model alone."""
    config = tiny.config(Single(), model=model)
    samples = config.data.open("train")
    return Subject(model, values.without_values(model, config, samples, torch.device("cpu")), samples, batch_size=4), config


def wholes(change: Change) -> dict[str, Tensor]:
    """The values of `change`, whole. A collective."""
    return {name: whole(value).clone() for name, value in change.values.items()}
