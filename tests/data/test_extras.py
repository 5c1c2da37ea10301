"""What needs an extra says which one to install, where it is not, before anything starts."""

from __future__ import annotations

import pytest

from tests import commands

HIDDEN = """\
import importlib.metadata, sys

names = {names!r}
sys.modules |= dict.fromkeys(names)  # as Python marks a module that must not be found
found = importlib.metadata.Distribution.from_name

def from_name(name):
    if name in names:
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)

importlib.metadata.Distribution.from_name = from_name
"""
MODULES = {"scikit-learn": "sklearn", "pillow": "PIL"}
"""What packages are imported as, where not by their own name."""
CASES = {
    "table": ("pyarrow", "tabular", ["model=mlp", "data=tabular", "data.path=t.csv", "data.target=y"]),
    "parquet": ("pyarrow", "tabular", ["data=text", "data.paths=[t.parquet]"]),
    "bpe": ("tokenizers", "hf", ["data.tokenizer=bpe"]),
    "tokenizer": ("tokenizers", "hf", ["data.tokenizer=hf", "data.tokenizer_path=tokenizer.json"]),
    "dataset": ("datasets", "hf", ["data=text", "data.dataset=somebody/something"]),
    "transformers": ("transformers", "hf", ["model=hf", "model.path=model", "data=synthetic"]),
    "digits": ("scikit-learn", "images", ["model=cnn", "data=images"]),
    "folder": ("pillow", "images", ["model=cnn", "data=images", "data.path=images"]),
    "deepspeed": ("deepspeed", "deepspeed", ["+strategy=zero2"]),
    "accelerate": ("accelerate", "accelerate", ["+strategy=accelerate"]),
    "ray": ("ray", "ray", ["launcher=ray"]),
    "assess": ("scikit-learn", "assess", ["model=mlp", "data=tabular", "data.path=t.csv", "data.target=y", "assess=credit"]),
    "wandb": ("wandb", "wandb", ["wandb.enabled=true"]),
}


@pytest.mark.parametrize("name", CASES)
def test_not_installed_says_which_extra(name, tmp_path, cache):
    package, extra, arguments = CASES[name]
    for file in ("t.parquet", "tokenizer.json", "a.txt", "images/cat/1.png", "model/config.json"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("text\n")
    (tmp_path / "t.csv").write_text("x,y\n1,2\n")
    (tmp_path / "sitecustomize.py").write_text(HIDDEN.format(names=[MODULES.get(package, package)]))
    if name in ("bpe", "tokenizer"):
        arguments = ["data=text", "data.paths=[a.txt]", *arguments]
    done = commands.run(*arguments, "train.device=cpu", cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{commands.ROOT}")
    assert done.returncode == 2, done.stderr
    assert f"needs the package '{package}', which is not installed; install it with: pip install -e '.[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
