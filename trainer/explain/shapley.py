"""The game of a case, as the explainers of shap play it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from trainer.errors import ConfigError
from trainer.explain.case import Attribution, Case
from trainer.explain.hierarchy import hierarchy
from trainer.explain.randomness import seeded
from trainer.explain.shap import Algorithm

EXACT_UNITS = 10  # auto: all coalitions of so many units
KERNEL_RUNS = 5  # independent ones, for the standard errors


class Game:
    """A masker and a model in shap's sense: the masker gives coalitions themselves, and the model their values.

    Players are the units that differ from the background somewhere: the others change nothing, and their Shapley values are 0.
    """

    supports_delta_masking = True
    immutable_outputs = True

    def __init__(self, case: Case) -> None:
        self.case = case
        self.players = case.per_unit((case.inputs != case.background).any(0)).nonzero().flatten()
        """(players,) int64: numbers of the units."""
        self.clustering: np.ndarray | None = None
        self.evaluations = 0

    def __len__(self) -> int:
        return len(self.players)

    def values(self, coalitions: np.ndarray) -> np.ndarray:
        """(n, players) bool, or 0 and 1, to (n,) float64."""
        self.evaluations += len(coalitions)
        present = torch.zeros(len(coalitions), len(self.case), dtype=torch.bool)
        present[:, self.players] = torch.from_numpy(coalitions.astype(bool))
        return self.case.value(present).numpy()

    def shape(self, sample: np.ndarray) -> tuple[int, int]:
        """Rows that one coalition becomes, and players."""
        return 1, len(self)

    def __call__(self, mask: np.ndarray, sample: np.ndarray) -> Any:
        """A coalition itself; or of numbers of players that come or go, one after the other, all the coalitions, and that each is new."""
        if mask.dtype == bool:
            return (mask[None],)
        changes = np.zeros((len(mask), len(self)), bool)
        (moves,) = np.nonzero(mask < len(self))  # a number above stands for no change
        changes[moves, mask[moves]] = True
        return (np.logical_xor.accumulate(changes, 0, out=changes),), np.ones((len(mask), 1), bool)


def play(case: Case, kind: Algorithm, evaluations: int, seed: int) -> Attribution:
    """Shapley (or Owen) values of a decision.

    Args:
        kind: any but gradient and tree.
        evaluations: of coalitions, at most.

    Raises:
        ConfigError: `evaluations` are too few for the units.
    """
    game = Game(case)
    if kind is Algorithm.auto:
        kind = Algorithm.exact if len(game) <= EXACT_UNITS and 2 ** len(game) <= evaluations else Algorithm.permutation
    with seeded(case.seed, seed):
        if len(game) < 2:
            base, all_present = game.values(np.array([[False] * len(game), [True] * len(game)]))
            runs = [np.full(len(game), all_present - base)]
        else:
            base, runs = _PLAYED[kind](game, evaluations)
    values = torch.zeros(len(case), dtype=torch.float64)
    values[game.players] = torch.from_numpy(np.mean(runs, 0))
    told = {"evaluations": float(game.evaluations)}
    if len(runs) == 1:
        return Attribution(values, float(base), told=told)
    deviation = torch.zeros_like(values)
    deviation[game.players] = torch.from_numpy(np.std(runs, 0, ddof=1)) / len(runs) ** 0.5
    return Attribution(values, float(base), deviation, {**told, "repetitions": len(runs)})


def expected_gradients(case: Case, points: int, seed: int) -> Attribution:
    """Gradients times differences, the mean over `points` drawn between the sample and the background.

    They add up to the margin less its mean over the background but for `told["gap"]`, which more points make smaller.

    Raises:
        ConfigError: the model has no gradients.
    """
    from captum.attr import GradientShap

    case.check_gradients("explain.shap.kind=gradient")
    method, drawn = GradientShap(case.margin), []
    with seeded(case.seed, seed):
        for first in range(0, points, case.differentiable_rows()):
            rows = case.inputs.expand(min(case.differentiable_rows(), points - first), *case.inputs.shape)
            found = method.attribute(rows, case.background, n_samples=1)  # its own mean would leave no standard errors
            drawn.append(case.finite(case.per_unit(found.detach())))
    each = torch.cat(drawn)
    values = each.mean(0)
    gap = float(values.sum()) - (case.all_present() - case.none_present())
    return Attribution(values, deviation=each.std(0) / points**0.5, told={"evaluations": points, "repetitions": points, "gap": gap})


def _exact(game: Game, evaluations: int) -> tuple[float, Sequence[np.ndarray]]:
    import shap

    if 2 ** len(game) > evaluations:
        raise _too_few("exact", game, evaluations, 2 ** len(game))
    found = shap.ExactExplainer(game.values, game).explain_row(np.ones(len(game)), max_evals=evaluations, interactions=1, **_PLAIN)
    return found["expected_values"], [found["values"]]


def _permutation(game: Game, evaluations: int) -> tuple[float, Sequence[np.ndarray]]:
    """A run is one permutation, forth and back; whatever is drawn, all permutations are independent."""
    import shap

    once = 2 * len(game) + 1
    if evaluations < 2 * once:
        raise _too_few("permutation", game, evaluations, 2 * once)
    explainer = shap.PermutationExplainer(game.values, game, seed=np.random.randint(2**31))
    runs = [explainer.explain_row(np.ones(len(game)), max_evals=once, **_PLAIN) for _ in range(evaluations // once)]
    return runs[0]["expected_values"], [run["values"] for run in runs]


def _kernel(game: Game, evaluations: int) -> tuple[float, Sequence[np.ndarray]]:
    """All coalitions, if they are few enough; else runs on coalitions drawn anew: shap draws without giving errors."""
    import shap

    runs = 1 if 2 ** len(game) <= evaluations else KERNEL_RUNS
    least = KERNEL_RUNS * (2 * len(game) + 1) + 1  # all coalitions of one, and of all but one
    if runs > 1 and evaluations < least:
        raise _too_few("kernel", game, evaluations, least)
    explainer = shap.KernelExplainer(game.values, np.zeros((1, len(game))))
    coalitions = (evaluations - 1) // runs - 1
    everyone = np.ones(len(game))
    # Without l1_reg=False shap sets all but 10 values to 0.
    found = [explainer.shap_values(everyone, nsamples=coalitions, l1_reg=False, silent=True) for _ in range(runs)]
    return float(explainer.expected_value), found  # type: ignore[arg-type]


def _partition(game: Game, evaluations: int) -> tuple[float, Sequence[np.ndarray]]:
    import shap

    game.clustering = hierarchy(game.case, game.players)
    explainer = shap.PartitionExplainer(game.values, game)
    found = explainer.explain_row(np.ones(len(game)), max_evals=evaluations, fixed_context=None, **{**_PLAIN, "batch_size": 64})
    return found["expected_values"], [found["values"]]


def _too_few(kind: str, game: Game, evaluations: int, least: int) -> ConfigError:
    return ConfigError(
        f"explain.shap.evaluations={evaluations}: {len(game)} units that differ from the background take at least {least:,} with kind={kind}; "
        "give more, or take kind=partition, or kind=gradient for a network, or fewer columns (data.reduce)"
    )


_PLAIN: dict[str, Any] = {"main_effects": False, "error_bounds": False, "batch_size": None, "outputs": None, "silent": True}
_PLAYED: dict[Algorithm, Callable[[Game, int], tuple[float, Sequence[np.ndarray]]]] = {
    Algorithm.exact: _exact,
    Algorithm.permutation: _permutation,
    Algorithm.kernel: _kernel,
    Algorithm.partition: _partition,
}
