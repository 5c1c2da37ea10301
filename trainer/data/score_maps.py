"""What CRAFT learns (section 3.1 of the paper): a Gaussian on each character, and one between two of a word."""

from __future__ import annotations

import itertools

import numpy as np

SCALE = 2  # pixels of a picture for one of a map
# Standard deviation of the Gaussians as a share of half the quadrilateral: where the published weights are nearest to boxes of ink.
REGION, AFFINITY = 0.65, 0.5


def score_maps(words: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """(2, height / 2, width / 2) float32: region and affinity scores.

    words: for each (characters, 4, 2), the corners of its characters in pixels, clockwise from the top left.
    """
    maps = np.zeros((2, height // SCALE, width // SCALE), np.float32)
    for characters in words:
        for quad in characters:
            _add(maps[0], quad / SCALE, REGION)
        for first, second in itertools.pairwise(characters):
            _add(maps[1], affinity(first, second) / SCALE, AFFINITY)
    return maps


def affinity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(4, 2): between two characters, its corners the centres of their upper and lower triangles."""
    corners = []
    for quad in (first, second):
        centre = quad.mean(0)
        corners.append(((quad[0] + quad[1] + centre) / 3, (quad[2] + quad[3] + centre) / 3))
    (a, d), (b, c) = corners
    return np.stack([a, b, c, d])


def _add(target: np.ndarray, quad: np.ndarray, spread: float) -> None:
    """Raise `target` to the Gaussian of the parallelogram that is nearest to `quad`."""
    centre = quad.mean(0)
    across, down = (quad[1] + quad[2] - quad[0] - quad[3]) / 4, (quad[2] + quad[3] - quad[0] - quad[1]) / 4
    reach = 3 * spread * (np.abs(across) + np.abs(down)) + 1
    left, top = np.maximum(np.floor(centre - reach), 0).astype(int)
    right, bottom = np.minimum(np.ceil(centre + reach), target.shape[::-1]).astype(int)
    determinant = across[0] * down[1] - across[1] * down[0]
    if right <= left or bottom <= top or abs(determinant) < 1e-6:
        return
    x = np.arange(left, right)[None, :] + 0.5 - centre[0]
    y = np.arange(top, bottom)[:, None] + 0.5 - centre[1]
    along_across = (x * down[1] - y * down[0]) / determinant
    along_down = (y * across[0] - x * across[1]) / determinant
    window = target[top:bottom, left:right]
    np.maximum(window, np.exp(-(along_across**2 + along_down**2) / (2 * spread**2)), out=window)
