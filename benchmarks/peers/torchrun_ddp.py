"""torchrun ... -m benchmarks.peers.torchrun_ddp: plain PyTorch."""

from __future__ import annotations

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks import stamps
from benchmarks.peers.common import train_ddp


def log(loss: float) -> None:
    if dist.get_rank() == 0:
        print(f"loss {loss:.4f}", flush=True)


def main() -> None:
    dist.init_process_group("gloo")
    stamps.install()
    train_ddp(lambda module: DistributedDataParallel(module, gradient_as_bucket_view=True), log)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
