"""What is done after training is the same, whatever started the ranks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.commands import run
from tests.explain import small

CHAIN = [
    "compress=[prune,quantize]",
    "explain=[integrated_gradients]",
    "posttrain.explain_samples=6",
    "posttrain.evidence_samples=1",
    "posttrain.latency_pairs=0",
]
TWO = ["strategy=ddp", "launcher.nproc_per_node=2"]
HOW = {
    "local": ([], TWO),
    "torchrun": (["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"], ["strategy=ddp"]),
    "ray": ([], [*TWO, "launcher=ray"]),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.run(tmp_path_factory.mktemp("trained"))


@pytest.mark.large
@pytest.mark.timeout(900)
def test_compressed_and_explained_alike(trained: Path, tmp_path: Path) -> None:
    found = {}
    for name, (starter, given) in HOW.items():
        shutil.copytree(trained, tmp_path / name)
        module, *rest = [*starter, "trainer.posttrain"]
        done = run(*rest, name, *CHAIN, *given, cwd=tmp_path, module=module)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("explained  6 decisions") == 1
        (made,) = (path for path in (tmp_path / name / "compressed").iterdir() if path.is_dir())
        found[name] = (made / "explain" / "integrated_gradients.jsonl").read_text()
    assert found["local"] == found["torchrun"] == found["ray"]
