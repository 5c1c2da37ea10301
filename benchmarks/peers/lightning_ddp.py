"""python -m benchmarks.peers.lightning_ddp: Lightning, which starts its own processes."""

from __future__ import annotations

import os

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from benchmarks import stamps
from benchmarks.peers import common


class Decoder(lightning.LightningModule):
    """The model as Lightning wants it."""

    def __init__(self, work: common.Work) -> None:
        super().__init__()
        self.decoder = common.make_model(work)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        loss = common.mean_loss(self.decoder, batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return common.make_optimizer(self.decoder)

    def on_train_start(self) -> None:
        os.environ["RANK"] = str(self.global_rank)  # for the marks; rank 0's process has none under Lightning
        stamps.install()


def main() -> None:
    work = common.given()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo", gradient_as_bucket_view=True, find_unused_parameters=False),
        max_steps=work.steps,
        gradient_clip_val=common.MAX_NORM,
        log_every_n_steps=common.LOG_EVERY,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Decoder(work), common.make_loader(work, sharded=False))


if __name__ == "__main__":
    main()
