"""A task's metric against the number of principal components that are kept, by quick models of scikit-learn's on the training split."""

from __future__ import annotations

from typing import Any

import numpy as np

FOLDS = 5
MOST = 256  # components
NEIGHBOURS = 5


def numbers(features: int) -> list[int]:
    """Numbers of components to try: 1, 2, 3, 5, 8, 13, ..., each about 1.6 times the one before, and all."""
    tried = [1, 2]
    while tried[-1] < features:
        tried.append(tried[-1] + tried[-2])
    return [*(number for number in tried if number < features), features]


def against_components(rows: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Cross-validated on `rows` (n, features): everything, the components too, is fitted without the fold that is measured.

    A linear model (logistic or ridge regression, on components of variance 1) and the 5 nearest neighbours, whose distances the curse is about.

    Returns:
        "metric" (AUC of two classes, accuracy of more, R2 of a number), "folds", "rows" (and how many were "left_out", of classes with fewer
        than 5), "components" tried, and for each of "models" a "mean" and "deviation" over the folds for each of them. Or "reason" alone.
    """
    from sklearn.decomposition import PCA
    from sklearn.model_selection import KFold, StratifiedKFold

    classes, given = np.issubdtype(labels.dtype, np.integer), len(rows)
    if classes:
        _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
        often = counts[places] >= FOLDS
        rows, labels = rows[often], labels[often]
    if len(rows) < 2 * FOLDS or len(np.unique(labels)) < 2:
        what = f"fewer than two classes have {FOLDS} rows" if classes else "there are too few rows, or their labels are all the same"
        return {"reason": f"{what}, of {given} that were looked at"}
    splitter = (StratifiedKFold if classes else KFold)(FOLDS, shuffle=True, random_state=0)
    parts = list(splitter.split(rows, labels))
    tried = numbers(min(rows.shape[1], MOST, min(len(train) for train, _ in parts)))
    found: dict[str, list[list[float]]] = {}
    for train, held_out in parts:
        pca = PCA(tried[-1], random_state=0).fit(rows[train])
        known, asked = (pca.transform(rows[part]) for part in (train, held_out))
        scale = np.maximum(known.std(0), 1e-12 * max(known.std(0).max(), 1e-300))
        for count in tried:
            for name, (model, by) in _models(classes, len(train), scale).items():
                model.fit(known[:, :count] / by[:count], labels[train])
                found.setdefault(name, [[] for _ in tried])[tried.index(count)].append(_score(model, asked[:, :count] / by[:count], labels[held_out], classes))
    models = {
        name: {"mean": [float(np.mean(scores)) for scores in by_count], "deviation": [float(np.std(scores)) for scores in by_count]}
        for name, by_count in found.items()
    }
    metric = ("AUC" if len(np.unique(labels)) == 2 else "accuracy") if classes else "R2"
    return {"metric": metric, "folds": FOLDS, "rows": len(rows), "left_out": given - len(rows), "components": tried, "models": models}


def _models(classes: bool, rows: int, scale: np.ndarray) -> dict[str, tuple[Any, np.ndarray]]:
    """By name a fresh model and what each component is divided by for it."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    neighbours = (KNeighborsClassifier if classes else KNeighborsRegressor)(min(NEIGHBOURS, rows))
    linear = LogisticRegression(max_iter=200) if classes else Ridge()
    return {"logistic regression" if classes else "ridge regression": (linear, scale), f"{NEIGHBOURS} nearest neighbours": (neighbours, np.ones_like(scale))}


def _score(model: Any, rows: np.ndarray, labels: np.ndarray, classes: bool) -> float:
    from sklearn.metrics import roc_auc_score

    if classes and len(model.classes_) == 2:
        return float(roc_auc_score(labels, model.predict_proba(rows)[:, 1]))
    return float(model.score(rows, labels))
