"""What is drawn at random is the same in every process."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tests.explain.known import case, network, numbers
from tests.ranks import run
from trainer.explain.lime import Lime
from trainer.explain.randomness import derived, seeded
from trainer.explain.shap import Algorithm, Shap


def _explained() -> list[Tensor]:
    net = network(8)
    of = case(lambda rows: net(rows)[:, 0], numbers(8, seed=1), numbers(4, 8, seed=2), seed=3)
    np.random.seed()  # as a process finds it
    torch.seed()
    explainers = [Shap(kind=Algorithm.kernel, evaluations=150), Shap(kind=Algorithm.gradient, evaluations=150), Lime(samples=150)]
    return [explainer.explain(of, 4).values for explainer in explainers]


def test_another_process_finds_the_same() -> None:
    (found,) = run(1, _explained, group=False)
    for theirs, ours in zip(found, _explained(), strict=True):
        assert torch.equal(theirs, ours)


def test_seeds_make_one() -> None:
    assert len({derived(0, 1), derived(1, 0), derived(0), derived(0, 0, 1), derived(2, 0)}) == 5
    assert derived(3, 4) == derived(3, 4)


def test_generators_are_put_back_after_an_error() -> None:
    np.random.seed(1)
    wanted = np.random.rand()
    np.random.seed(1)
    try:
        with seeded(5):
            first = np.random.rand()
            raise KeyError
    except KeyError:
        pass
    assert np.random.rand() == wanted
    with seeded(5):
        assert np.random.rand() == first
