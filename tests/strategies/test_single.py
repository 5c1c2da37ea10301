"""One process, against a loop written by hand: what every other strategy is measured against must itself be right."""

from __future__ import annotations

import pytest
import torch

from tests import ranks, tiny
from tests.tiny import Tiny, Trained
from trainer.config import Config
from trainer.order import Order
from trainer.sections import OptimizerName
from trainer.strategies.single import Single


def by_hand(config: Config) -> Trained:
    """The whole batch in one forward; the mean over its labels; warm-up of 2 steps, then no decay of the rate."""
    module = tiny.make_engine(config).module
    samples, order, optim = config.data.open("train"), Order(64, config.train.seed), config.optim
    decayed = [parameter for name, parameter in module.named_parameters() if parameter.ndim == 2 and "embed" not in name]
    others = [parameter for name, parameter in module.named_parameters() if parameter.ndim < 2 or "embed" in name]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=optim.lr) if optim.name is OptimizerName.sgd else torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas)
    losses, norms, lrs = [], [], []
    for step in range(1, config.train.max_steps + 1):
        batch = samples.batch(order.take(range(8 * (step - 1), 8 * step)))
        loss = config.model.loss(module, batch) / (batch["labels"] >= 0).sum()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), optim.max_norm)
        lrs.append(optim.lr * min(1.0, step / 2))
        for group in optimizer.param_groups:
            group["lr"] = lrs[-1]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        norms.append(norm.item())
    return Trained(losses, norms, lrs, {name: value.detach() for name, value in module.named_parameters()}, {})


@pytest.mark.parametrize("name", [OptimizerName.sgd, OptimizerName.adamw])
@pytest.mark.parametrize("micro_batch_size", [None, 1, 2])
def test_is_the_loop_that_one_would_write(name: OptimizerName, micro_batch_size: int | None) -> None:
    from trainer.sections import ScheduleName

    optim = {"name": name, "schedule": ScheduleName.constant, "lr": 0.3 if name is OptimizerName.sgd else 0.02}
    if name is OptimizerName.sgd:
        optim["weight_decay"] = 0.0
    config = tiny.config(Single(), model=Tiny(), optim=optim, micro_batch_size=micro_batch_size)
    (expected,), (trained,) = ranks.run(1, by_hand, config), ranks.run(1, tiny.train, config)
    assert trained.losses == pytest.approx(expected.losses, rel=1e-6)
    assert trained.norms == pytest.approx(expected.norms, rel=1e-6)
    assert trained.lrs == pytest.approx(expected.lrs)
    for key, value in expected.parameters.items():
        torch.testing.assert_close(trained.parameters[key], value, rtol=1e-5, atol=1e-6)
