"""Which units of a case belong together, as a binary tree."""

from __future__ import annotations

import numpy as np
import torch

from trainer.explain.case import Case

CLUSTERED = 1000  # units at most whose distances are all looked at


def hierarchy(case: Case, players: torch.Tensor) -> np.ndarray:
    """A tree over some units of a case, in the form of scipy.cluster.hierarchy: (players - 1, 4) float64.

    Columns of a table are near each other that correlate in the background, regions of a picture whose centres are near each other (Ward).
    Tokens, and more than 1,000 units of any kind, are halved in their order, again and again.

    Args:
        players: (players,) int64, numbers of 2 units or more.
    """
    if case.inputs.dim() == 2 or len(players) > CLUSTERED:
        return _halved(len(players))
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    if case.inputs.dim() == 1:
        return linkage(squareform(_uncorrelated(case, players), checks=False), "average")
    return linkage(_centres(case)[players.numpy()], "ward")


def _halved(count: int) -> np.ndarray:
    """Nodes are numbered as in scipy: leaves first, and children before their parents."""
    rows: list[tuple[int, int, float, int]] = []

    def node(first: int, end: int) -> int:
        if end - first == 1:
            return first
        middle = (first + end) // 2
        left, right = node(first, middle), node(middle, end)
        rows.append((left, right, float(end - first), end - first))
        return count + len(rows) - 1

    node(0, count)
    return np.array(rows, dtype=np.float64)


def _uncorrelated(case: Case, players: torch.Tensor) -> np.ndarray:
    """(players, players): 1 less the greatest correlation, of either sign, of a feature of one with a feature of the other; 1: none."""
    place = torch.full((len(case) + 1,), -1)  # of each unit among the players
    place[players] = torch.arange(len(players))
    owner = place[case.unit_of.cpu()]  # -1, of no unit, is the last
    held = owner >= 0
    rows = case.background.double().cpu()[:, held]
    rows = rows - rows.mean(0)
    norms = rows.norm(dim=0)
    rows = torch.where(norms > 0, rows / norms, 0.0)  # a constant correlates with nothing
    pairs = owner[held][:, None] * len(players) + owner[held]
    found = torch.zeros(len(players) ** 2, dtype=torch.float64)
    found.scatter_reduce_(0, pairs.flatten(), (rows.T @ rows).abs().flatten(), "amax")
    return (1 - found.clamp(max=1)).view(len(players), -1).fill_diagonal_(0).numpy()


def _centres(case: Case) -> np.ndarray:
    """(units, axes): of each region the mean place of its numbers."""
    axes = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in case.inputs.shape), indexing="ij")
    size = case.per_unit(torch.ones_like(axes[0])).clamp(min=1)
    return torch.stack([case.per_unit(axis) / size for axis in axes], -1).numpy()
