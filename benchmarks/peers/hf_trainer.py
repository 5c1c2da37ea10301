"""torchrun ... -m benchmarks.peers.hf_trainer: transformers' Trainer."""

from __future__ import annotations

import tempfile

from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from benchmarks import stamps
from benchmarks.peers import common


class WithLoss(nn.Module):
    """What Trainer expects: the mean loss in a dict."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": common.mean_loss(self.decoder, {"input_ids": input_ids, "labels": labels})}


def main() -> None:
    stamps.install()
    work = common.given()
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            output_dir=directory,
            max_steps=work.steps,
            per_device_train_batch_size=work.batch,
            learning_rate=common.LR,
            weight_decay=common.WEIGHT_DECAY,
            adam_beta1=common.BETAS[0],
            adam_beta2=common.BETAS[1],
            max_grad_norm=common.MAX_NORM,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            logging_steps=common.LOG_EVERY,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_drop_last=True,
            ddp_find_unused_parameters=False,
        )
        Trainer(model=WithLoss(common.make_model(work)), args=arguments, train_dataset=common.Windows(work)).train()


if __name__ == "__main__":
    main()
