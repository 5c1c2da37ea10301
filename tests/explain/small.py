"""A table of which the answer is known, and a run on it that takes a second."""

from __future__ import annotations

from pathlib import Path

from trainer.__main__ import train
from trainer.cli import main

MODEL = ["model=mlp", "model.hidden=[8]", "data=tabular", "data.target=risk", "data.eval_fraction=0.2"]


def table(path: Path, rows: int = 200) -> Path:
    """Risk follows the debt, and being a student; not the number of the house."""
    lines = ["debt,student,house,risk"]
    for i in range(rows):
        debt, student, house = (37 * i) % 100 / 100, i % 3 == 0, (53 * i) % 71
        lines.append(f"{debt},{'yes' if student else 'no'},{house},{'high' if debt + 0.3 * student > 0.6 else 'low'}")
    path.write_text("\n".join(lines) + "\n")
    return path


def run(folder: Path) -> Path:
    """Train on such a table; the run's directory."""
    path = table(folder / "table.csv")
    knobs = ["train.device=cpu", "log.progress=false", "train.max_steps=30", "optim.lr=0.02", "launcher.nproc_per_node=1"]
    assert main(train, [f"run_dir={folder / 'run'}", f"data.path={path}", *MODEL, *knobs]) == 0
    return folder / "run"
