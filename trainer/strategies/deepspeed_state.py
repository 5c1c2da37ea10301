"""DeepSpeed's flat partitions as tensors of their parameters' shapes, and back.

DeepSpeed keeps master parameters and optimizer state flat; a rank holds a contiguous part of each
flattened parameter (stage 1 and 2: most parameters lie on one rank; stage 3: on all, padded).
A checkpoint takes rows: each rank writes and reads its own of every tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class Part:
    """What this rank holds of one flattened parameter: elements `start` to `start + numel`, at `offset` in `flat`."""

    flat: Tensor
    offset: int
    start: int
    numel: int

    def view(self, of: Tensor) -> Tensor:
        """The elements of this part in `of`: `flat` itself, or optimizer state of its shape."""
        return of.detach().narrow(0, self.offset, self.numel)


def parts12(zero: Any) -> dict[nn.Parameter, Part]:
    """Parts of trainable parameters under stage 1 and 2 (none for those that lie on other ranks)."""
    parts = {}
    for flat, group in zip(zero.single_partition_of_fp32_groups, zero.bit16_groups, strict=True):
        for parameter in group:
            mapping = parameter._hp_mapping
            if mapping is not None:
                held, inside = mapping.hp_fragment_address, mapping.lp_fragment_address
                parts[parameter] = Part(flat, held.start, inside.start, inside.numel)
    return parts


def parts3(zero: Any) -> dict[nn.Parameter, Part]:
    """Parts of trainable parameters under stage 3, without their padding."""
    parts = {}
    for flat, group in zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True):
        offset = 0
        for parameter in group:
            start, numel = held3(parameter)
            parts[parameter] = Part(flat, offset, start, numel)
            offset += parameter.partition_numel()
    return parts


def held3(parameter: Any) -> tuple[int, int]:
    """(first element, elements) of a partitioned parameter that this rank holds."""
    size = parameter.ds_tensor.ds_numel
    start = min(parameter.ds_numel, size * parameter.ds_zero_partition_rank)
    return start, min(size, parameter.ds_numel - start)


def whole(held: Tensor | None, start: int, shape: torch.Size, device: torch.device, group: dist.ProcessGroup | None = None) -> Tensor:
    """The whole fp32 tensor of which each rank holds a part. A collective of `group`."""
    full = torch.zeros(shape.numel(), device=device)
    if held is not None:
        full[start : start + held.numel()] = held.to(device)
    dist.all_reduce(full, group=group)
    return full.view(shape)


def rows(full: Tensor, mesh: DeviceMesh) -> Tensor:
    """This rank's rows of `full`, with memory of their own on its device (`full` itself where it has no rows)."""
    if full.ndim == 0:
        return full
    shape, offset = compute_local_shape_and_global_offset(full.shape, mesh, [Shard(0)])
    # `from_local` would bring them to the mesh's device: `full` may be on the host, to be written beside training.
    like = DTensor.from_local(torch.empty(shape, dtype=full.dtype, device="meta"), mesh, [Shard(0)], run_check=False, shape=full.shape, stride=full.stride())
    cut = torch.empty_like(like, device=full.device)
    assert isinstance(cut, DTensor)
    cut.to_local().copy_(full[offset[0] : offset[0] + shape[0]])
    return cut


def unrows(value: Tensor) -> Tensor:
    """The whole tensor again, flat. A collective."""
    return (value.full_tensor() if isinstance(value, DTensor) else value).flatten()


def state_keys(optimizer: torch.optim.Optimizer, flats: list[Tensor]) -> Iterator[str]:
    """Names of the optimizer's elementwise state, in the same order on all ranks."""
    state = optimizer.state.get(flats[0], {})
    return (key for key, value in state.items() if isinstance(value, Tensor) and value.shape == flats[0].shape)
