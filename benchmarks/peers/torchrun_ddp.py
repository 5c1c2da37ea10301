"""torchrun ... -m benchmarks.peers.torchrun_ddp: plain PyTorch."""

from __future__ import annotations

from itertools import islice

import torch.distributed as dist
from torch import nn

from benchmarks import stamps
from benchmarks.peers import common


def main() -> None:
    dist.init_process_group("gloo")
    stamps.install()
    work = common.given()
    model = nn.parallel.DistributedDataParallel(common.make_model(work), gradient_as_bucket_view=True)
    optimizer = common.make_optimizer(model)
    parameters = list(model.parameters())
    for step, batch in enumerate(islice(common.make_loader(work, sharded=True), work.steps), 1):
        loss = common.mean_loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, common.MAX_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % common.LOG_EVERY == 0 and dist.get_rank() == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
