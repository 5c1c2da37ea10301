"""torchrun ... -m benchmarks.peers.accelerate_ddp: the loop of Accelerate's documentation."""

from __future__ import annotations

from itertools import islice

from accelerate import Accelerator, DistributedDataParallelKwargs

from benchmarks import stamps
from benchmarks.peers import common


def main() -> None:
    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)])
    assert accelerator.num_processes > 1, "Accelerate does not see the processes of torchrun"
    stamps.install()
    work = common.given()
    model = common.make_model(work)
    model, optimizer, loader = accelerator.prepare(model, common.make_optimizer(model), common.make_loader(work, sharded=False))
    for step, batch in enumerate(islice(loader, work.steps), 1):
        loss = common.mean_loss(model, batch)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), common.MAX_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % common.LOG_EVERY == 0:
            accelerator.print(f"step {step}: loss {loss.item():.4f}", flush=True)
    accelerator.end_training()


if __name__ == "__main__":
    main()
