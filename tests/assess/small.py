"""A table of applicants in which income and debt decide, and age a little; sex and region do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.__main__ import train
from trainer.cli import main

COLUMNS = "income,debt,region,sex,age,defaulted"
OVERRIDES = [
    "data=tabular",
    "data.target=defaulted",
    "data.features=[income,debt,region,age]",
    "data.eval_fraction=0.4",
    "model=mlp",
    "model.hidden=[8]",
    "train.device=cpu",
    "train.max_steps=60",
    "train.global_batch_size=64",
    "optim.lr=1e-2",
    "log.progress=false",
]
ASSESS = ["assess=credit", "assess.cost_of_default=4", "assess.unit=EUR", "assess.groups=[sex,{age:[25,60]}]"]


def table(path: Path, rows: int = 800, seed: int = 0) -> Path:
    """Write `rows` applicants; about one in three defaults."""
    draw = np.random.default_rng(seed)
    income, debt, age = draw.normal(30, 8, rows), draw.gamma(2, 5, rows), draw.integers(18, 80, rows)
    risk = 1 / (1 + np.exp(-(-1.2 - 0.12 * (income - 30) + 0.12 * (debt - 10) - 0.01 * (age - 45))))
    region, sex = draw.choice(["north", "south"], rows), draw.choice(["f", "m"], rows)
    bad = np.where(draw.random(rows) < risk, "yes", "no")
    lines = [f"{a:.3f},{b:.3f},{c},{d},{e},{f}" for a, b, c, d, e, f in zip(income, debt, region, sex, age, bad, strict=True)]
    path.write_text("\n".join([COLUMNS, *lines]) + "\n", encoding="utf-8")
    return path


def run(place: Path, *overrides: str) -> Path:
    """Train on such a table in `place`/run, and assess."""
    data = table(place / "applicants.csv")
    assert main(train, [f"run_dir={place / 'run'}", *OVERRIDES, f"data.path={data}", *ASSESS, *overrides]) == 0
    return place / "run"
