"""What DeepSpeed leaves to its users: gradients of parameters that a step does not use, and use that depends on the rank."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trainer.strategies.agreement import Agreement


def forget_gradients(zero: Any) -> None:
    """Zero the gradients that DeepSpeed keeps from step to step.

    It overwrites them only for parameters that the next step uses: an unused one would be moved by
    the gradient of an earlier step.
    """
    kept = getattr(zero, "grad_partitions_flat_buffer", None)  # stage 3
    if kept is not None:
        kept.zero_()
    for accumulated in getattr(zero, "accumulated_grads_in_cpu", {}).values():  # stage 1 and 2 with offload
        accumulated.zero_()
    flats = zero.fp32_partitioned_groups_flat if kept is not None else zero.single_partition_of_fp32_groups
    for flat in flats:
        if flat.grad is not None:  # offload
            flat.grad.zero_()


def announce_gradients(module: nn.Module, agreement: Agreement) -> None:
    """Note each gradient before DeepSpeed, whose hooks come later, adds it to what it exchanges."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            entry = f"the gradient of {name}"
            parameter.register_post_accumulate_grad_hook(lambda _, entry=entry: agreement.note(entry))


def announce_exchanges(module: nn.Module, zero: Any, agreement: Agreement) -> None:
    """Note the end of each backward before its last exchange, and under stage 3 each layer before it is gathered."""
    exchange = zero.overlapping_partition_gradients_reduce_epilogue

    def announced_exchange() -> None:
        agreement.end("the end of backward")
        exchange()

    zero.overlapping_partition_gradients_reduce_epilogue = announced_exchange
    if not hasattr(zero, "parameter_offload"):
        return
    coordinator = zero.parameter_offload.get_param_coordinator()
    fetch = coordinator.fetch_sub_module
    entries = {part: f"the parameters of {name or 'the model itself'}" for name, part in module.named_modules() if part._parameters}

    @torch.compiler.disable
    def announced_fetch(part: nn.Module, forward: bool) -> None:
        if part in entries:
            agreement.note(entries[part])
        fetch(part, forward)

    coordinator.fetch_sub_module = announced_fetch
