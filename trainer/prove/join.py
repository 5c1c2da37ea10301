"""A rank's process group and device, for as long as a cell takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from trainer.config import Config
    from trainer.distributed import Place


@contextmanager
def joined(config: Config, place: Place, timeout: timedelta) -> Iterator[torch.device]:
    """This rank's process group and device."""
    import torch

    from trainer import distributed

    torch.set_num_threads(1)
    device = distributed.pick_device(config.train.device.name, place.local_rank)
    distributed.make_deterministic(config.train.deterministic and device.type == "cuda")
    distributed.init(place, device, timeout=timeout)
    yield device
    distributed.close()
