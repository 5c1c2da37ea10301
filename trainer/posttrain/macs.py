"""Multiply-accumulates of one forward pass, counted where they are dispatched: whatever a layer is made of, and whoever wrote it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, mm_flop

from trainer.compress.form import CompressedLayer
from trainer.compress.subject import layers_of
from trainer.loader import to_device
from trainer.models.base import Model
from trainer.strategies.engine import Engine


class Counted(NamedTuple):
    """What a pass takes. Causal attention counts in full, and so do weights that are zero: dense kernels multiply them too."""

    macs: int
    left_out: list[str]
    """Layers whose arithmetic the counter does not know, such as a kernel of one's own."""


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Scores and their sum of values; heads that share keys and values each have their own."""
    scores = math.prod(query[:-1]) * key[-2]
    return 2 * scores * (query[-1] + value[-1])


def _integer_product(a: Any, b: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return mm_flop(a, b)


# What PyTorch's own table lacks: attention's kernel on the CPU, and the product of int8 matrices.
FORMULAS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention, torch.ops.aten._int_mm: _integer_product}


@torch.no_grad()
def count(engine: Engine, model: Model, batch: Mapping[str, Tensor]) -> Counted:
    """Of a pass of `engine`'s model over `batch`. A collective."""
    engine.model.eval()
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)  # type: ignore[arg-type]
    with counter:
        engine.metrics(model, to_device(batch, engine.device))
    by_name = {name.partition(".")[2]: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    own = [name for name, sub in engine.module.named_modules() if isinstance(sub, CompressedLayer)]
    layers = dict.fromkeys([*layers_of(model, engine.module), *own])
    return Counted(counter.get_total_flops() // 2, [name for name in layers if not by_name.get(name)])
