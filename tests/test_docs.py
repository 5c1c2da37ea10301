"""Every command in a `bash` block of the README and of docs/ is run: those of the trainer here, made small; the rest are named."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.commands import ROOT, run

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

SMALL = [
    "train.max_steps=2",
    "eval.batch_size=256",
    "data.seq_len=32",
    "data.eval_fraction=0.002",
    "model.layers=1",
    "model.dim=32",
    "model.heads=2",
    "model.kv_heads=null",
    "model.sample_tokens=4",
]
"""Appended to a command that trains the default model on text; its own keys come first, so these win."""

SMALL_DETECTOR = ["data.height=64", "data.width=64", "data.words=3", "data.largest=32", "data.samples=16", "data.eval_samples=4", "posttrain.latency_pairs=0"]
"""Likewise to one that brings in the published detector."""

ELSEWHERE = {
    "make train": "test_make.py, large",
    "make test": "what runs this",
    "make test-large": "what runs the tests marked large",
    "make lint": "test_make.py",
    "make bench": "benchmarks/, by hand",
    "python -m pip": "the Makefile does the same",
}
"""Commands that are not run here, and where they are."""


def commands(page: Path) -> list[str]:
    """The commands in the ```bash blocks of a page, continuation lines joined, comments removed."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := line.split(" #")[0].strip())]


CASES = [(page, command) for page in PAGES for command in commands(page)]


def slow(page: Path, command: str) -> bool:
    """Whole rehearsals, proofs, exports and sweeps, strategies that other tests start in the same way, and what is downloaded: a detector, tables."""
    if page.name == "README.md":  # its own proof is no slow one
        return False
    known = [f"python -m trainer{rest}" for rest in (".drill", ".prove", " -m", " +strategy=")]
    chains = ("export=", "compress=[prune],[prune,quantize]", "compress=[low_rank]")
    return page.name in ("detector.md", "credit.md") or command.startswith(tuple(known)) or any(part in command for part in chains)


def test_there_are_commands():
    assert {page.name for page, _ in CASES} >= {"README.md", "CONTRIBUTING.md", "batch.md", "strategies.md"}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A directory like a checkout: commands of one page may build on those before them."""
    place = tmp_path_factory.mktemp("docs")
    for name in ("examples", "launch"):
        shutil.copytree(ROOT / name, place / name)
    return place


@pytest.mark.parametrize(
    ("page", "command"),
    [pytest.param(page, command, id=f"{page.stem}: {command}", marks=[pytest.mark.large] if slow(page, command) else []) for page, command in CASES],
)
def test_command(page, command, workplace):
    words = shlex.split(command)
    environment = {}
    while "=" in words[0]:
        key, value = words.pop(0).split("=", 1)
        environment[key] = str(ROOT / value) if key == "PYTHONPATH" else value
    if (known := next((key for key in ELSEWHERE if command.startswith(key)), None)) is not None:
        wanted = rf"^{words[1]}:" if words[0] == "make" else r"-m pip install --quiet --constraint constraints.txt --editable '.\[all,dev\]'"
        assert re.search(wanted, (ROOT / "Makefile").read_text(), re.MULTILINE), known
        return
    if words[0] != "python":
        pytest.fail(f"{page.name}: {command}: how is it tested? Add it to ELSEWHERE, with the test that runs it")
    assert words[1] == "-m"
    done = run(*words[3:], *small(words), cwd=workplace, module=words[2], **environment)
    assert done.returncode == 0, done.stdout + done.stderr


def small(words: list[str]) -> list[str]:
    """What makes the command of `words` short without changing what it shows."""
    given = {word.lstrip("+").split("=")[0] for word in words if "=" in word}
    if words[2] == "trainer.prove":
        own = ["prove.steps=2", "prove.ranks=[1,2]", "prove.strategies=[single,ddp]"]
        return [*SMALL[2:], *(key for key in own if key.split("=")[0] not in given)]
    if words[2] == "trainer.drill":
        return ["drill.steps=6", "launcher.nproc_per_node=1", *SMALL[2:]]
    if words[2] != "trainer" or "--cfg" in words or "--help" in words:
        return []
    if "launcher.nnodes" in given or "launcher.address" in given:
        return ["--cfg", "job"]  # needs other machines: composed and checked
    if "experiment=credit_default" in words or "experiment=german_credit" in words:
        return []  # seconds as they are
    if "experiment" in given:
        pruned = ["compress.prune_structured.finetune.steps=2", "compress.prune_structured.scan_ratios=[0.5]"]
        short = pruned if "experiment=pruned_detector" in words else []
        return [*(key for key in SMALL_DETECTOR if key.split("=")[0] not in given), *short]
    keys = SMALL if given.isdisjoint({"model", "data"}) else SMALL[:2]
    return [key for key in keys if key.split("=")[0] not in given]
