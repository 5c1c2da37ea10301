"""python -m trainer.checkpoint: what a run has, whether it is as it was written, and a run begun from a Llama."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import ranks, tiny
from tests.checkpoint.trained import SMALL, checkpoint, config
from tests.commands import run_without_torch, without_privileges
from tests.launchers.running import losses
from trainer.checkpoint.__main__ import main
from trainer.checkpoint.directory import MANIFEST, directory, find
from trainer.checkpoint.load import load
from trainer.checkpoint.tensors import StoredTensors
from trainer.config import Config
from trainer.models.gpt import GPT, RopeScaling
from trainer.state import Position
from trainer.strategies.fsdp import FSDP


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(config(tmp_path_factory.mktemp("saved") / "run", strategy=FSDP()), 2)[0]


@pytest.fixture
def saved(saved_once: Path, tmp_path: Path) -> Path:
    """A copy, which a test may change."""
    shutil.copytree(saved_once.parent.parent, tmp_path / "run")
    return tmp_path / "run" / saved_once.parent.name / saved_once.name


def test_ls_and_verify_answer_without_torch(saved: Path, tmp_path: Path) -> None:
    directory(tmp_path / "run", 5).mkdir()
    done = run_without_torch("ls", "run", cwd=tmp_path, module="trainer.checkpoint")
    assert (done.returncode, done.stderr) == (0, "")
    head, _, whole, half = (line.split(maxsplit=7) for line in done.stdout.splitlines())
    assert head == ["STEP", "TOKENS", "STRATEGY", "RANKS", "SIZE", "WHEN", "STATE"]
    total = sum(file.stat().st_size for file in saved.iterdir())
    assert whole[:6] == ["3", "300", "fsdp", "2", f"{total / 1024:.0f}", "KiB"]
    assert whole[7].split(maxsplit=1)[1] == "whole"
    assert half[:4] == ["5", "?", "?", "?"]
    assert half[7].endswith("not whole: a save or a removal of it did not end")

    done = run_without_torch("verify", "run", cwd=tmp_path, module="trainer.checkpoint")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "run/checkpoints/step-00000003: every file is as it was written",
        "run/checkpoints/step-00000005: a save or a removal of it did not end; it is not taken for a checkpoint",
    ]
    (tmp_path / "run" / "checkpoints" / "step-00000007").touch()  # a file
    (saved / "manifest.json").unlink()
    done = run_without_torch("verify", "run", cwd=tmp_path, module="trainer.checkpoint")
    assert (done.returncode, done.stderr) == (
        1,
        "run/checkpoints/step-00000003: manifest.json is missing\n"
        "run/checkpoints/step-00000007: cannot be read (Not a directory); it is left as it is: run the same command again once it can be, "
        "or give another checkpoint with checkpoint.resume=PATH\n",
    )
    assert "not whole: manifest.json is missing" in run_without_torch("ls", "run", cwd=tmp_path, module="trainer.checkpoint").stdout


def test_verify_names_each_file_that_is_damaged_or_missing(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = sorted(saved.glob("*.safetensors"))
    content = first.read_bytes()
    first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    second.rename(saved / "other.safetensors")
    for path in (saved, saved.parent.parent):
        assert main(["verify", str(path)]) == 1
        assert capsys.readouterr().err.splitlines() == [
            f"{saved}: other.safetensors is not of this checkpoint",
            f"{saved}: {first.name} is not what was written",
            f"{saved}: {second.name} is missing",
        ]
    assert main(["ls", str(saved)]) == 0
    assert capsys.readouterr().out.endswith(f"not whole: {second.name} missing\n")
    (saved / "other.safetensors").rename(second)
    for size in (len(second.read_bytes()) - 1, 100, 4):
        with second.open("r+b") as file:
            file.truncate(size)
        assert main(["ls", str(saved)]) == 0
        assert capsys.readouterr().out.endswith(f"not whole: {second.name} is not of its full size\n")
    (saved / MANIFEST).write_text("{")
    assert main(["verify", str(saved)]) == 1
    assert capsys.readouterr().err.startswith(f"{saved}: manifest.json cannot be read (JSONDecodeError: ")
    assert main(["ls", str(saved)]) == 0
    assert capsys.readouterr().out.endswith("not whole: manifest.json is damaged\n")


def test_one_under_any_name(saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def step(path: str) -> str:
        assert main(["ls", path]) == 0
        return capsys.readouterr().out.splitlines()[2].split()[0]

    aside = saved.rename(saved.with_name("damaged-step-00000007"))
    assert step(str(aside)) == "3"
    monkeypatch.chdir(aside)
    assert step(".") == "3"
    Path(MANIFEST).write_text("{")
    assert step(".") == step(str(aside)) == "damaged-step-00000007"
    assert step(str(aside.rename(saved))) == "3"


def test_a_newer_format_beside_others(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, newer = saved.parent.parent, directory(saved.parent.parent, 2)
    newer.mkdir()
    (newer / MANIFEST).write_text('{"format_version": 9}')
    told = f"{newer}: has format 9, newer than 1, the newest that this version reads"
    assert main(["ls", str(run_dir)]) == 0
    _, _, first, second = capsys.readouterr().out.splitlines()
    assert (first.split()[:4], second.split()[:4]) == (["2", "?", "?", "?"], ["3", "300", "fsdp", "2"])
    assert first.endswith(f"  unknown: {told}")
    assert main(["verify", str(run_dir)]) == 1
    assert capsys.readouterr() == (f"{saved}: every file is as it was written\n", f"{told}\n")


@pytest.mark.parametrize("mode", [0, 0o400, 0o100])
def test_one_that_is_closed_to_this_user(saved: Path, mode: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither looked into, nor listed, nor taken for whole; the other is checked all the same."""
    with tempfile.TemporaryDirectory() as place:  # pytest's own is closed to others
        Path(place).chmod(0o755)
        run_dir = shutil.copytree(saved.parent.parent, Path(place) / "run")
        closed = shutil.copytree(directory(run_dir, 3), directory(run_dir, 5))
        closed.chmod(mode)
        with without_privileges():
            assert main(["ls", str(run_dir)]) == 0
            *_, first, second = capsys.readouterr().out.splitlines()
            assert first.endswith("  whole")
            assert "cannot be read (Permission denied)" in second
            assert main(["verify", str(run_dir)]) == 1
            out, err = capsys.readouterr()
            assert out == f"{directory(run_dir, 3)}: every file is as it was written\n"
            (line,) = err.splitlines()
            assert line.startswith(f"{closed}: cannot be read (Permission denied); make it readable for this user")
            if mode != 0o100:  # its manifest can be read there, and the file that is asked for by name
                assert main(["export", str(run_dir), f"{place}/out", "--format", "plain"]) == 2
                assert capsys.readouterr().err.startswith(f"error: {closed}: cannot be read (Permission denied)")
        closed.chmod(0o700)


@pytest.mark.parametrize("command", ["ls", "verify", "export"])
def test_what_is_no_run_directory(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(tmp_path), *(["out"] if command == "export" else [])]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: is neither a checkpoint (a directory with manifest.json) nor a run directory with checkpoints/\n"
    (tmp_path / "checkpoints").mkdir()
    assert main([command, str(tmp_path), *(["out"] if command == "export" else [])]) == (2 if command == "export" else 0)
    told = capsys.readouterr()
    assert (told.out, told.err) == {
        "ls": (f"{tmp_path} has no checkpoints\n", ""),
        "verify": (f"{tmp_path} has no checkpoints\n", ""),
        "export": ("", f"error: {tmp_path}: has no whole checkpoint (a directory with manifest.json)\n"),
    }[command]


@pytest.mark.parametrize("wrong", [["ls"], ["copy", "a"], ["export", "a", "b", "--max-shard-size", "large"], ["export", "a", "b", "--format", "onnx"]])
def test_a_wrong_command_line(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(wrong)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


# -- import -----------------------------------------------------------------------------------

needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="the extra `hf` is not installed")


def llama(place: Path, **changes: Any) -> Any:
    """A Llama with values of its own, in half precision, written to `place`."""
    import transformers

    torch.manual_seed(3)
    sizes = {"vocab_size": 256, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    made = transformers.LlamaConfig(**{**sizes, "max_position_embeddings": 64, **changes})
    reference = transformers.AutoModelForCausalLM.from_config(made).to(torch.bfloat16).eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, 1.0, 0.3) if parameter.ndim == 1 else torch.nn.init.normal_(parameter, 0.0, 0.2)
    reference.save_pretrained(place, max_shard_size="10KB")
    return transformers.AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The overrides of the command that `import` printed."""
    [(_, command)] = [line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if line.startswith("Train on")]
    python, option, package, *words = shlex.split(command)
    assert (python, option, package) == ("python", "-m", "trainer")
    return words


def gpt(words: list[str]) -> GPT:
    """The model that they make."""
    knobs = dict(word.removeprefix("model.").split("=") for word in words if word.startswith("model."))
    typed = {key: json.loads(value) for key, value in knobs.items()}
    scaling = {key.removeprefix("rope_scaling."): typed.pop(key) for key in list(typed) if key.startswith("rope_scaling.")}
    return GPT(**typed, rope_scaling=RopeScaling(**scaling) if scaling else None)


LLAMAS: dict[str, dict[str, Any]] = {
    "plain": {},
    "llama 3, tied": {
        "tie_word_embeddings": True,
        "rms_norm_eps": 0.01,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 100.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
}


@needs_transformers
@pytest.mark.parametrize("changes", LLAMAS.values(), ids=LLAMAS)
def test_a_llama_is_imported_with_the_same_outputs(changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = llama(tmp_path / "llama", **changes)
    assert main(["import", str(tmp_path / "llama"), str(tmp_path / "run")]) == 0
    module = gpt(printed(capsys)).build({"vocab_size": 256, "seq_len": 32})
    path = directory(tmp_path / "run", 0)
    assert main(["verify", str(path)]) == 0
    stored = StoredTensors(path)
    assert {meta.dtype for meta in stored.metas.values()} == {torch.float32}
    parameters = dict(module.named_parameters())
    assert {f"model.{name}" for name in parameters} == stored.metas.keys()
    tokens = torch.randint(0, 256, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(stored.read(f"model.{name}"))
        torch.testing.assert_close(module.eval()(tokens), reference(tokens).logits, rtol=1e-4, atol=1e-5)


def trained_on(made: Config, path: Path) -> tuple[list[str], float]:
    """On a rank: (parameters that are not what `path` has once it is loaded, the loss of the first step from there)."""
    engine = tiny.make_engine(made)
    assert load(engine, path, tiny.facts(made)) == Position(0, 0)
    stored = StoredTensors(path)
    different = [name for name, value in tiny.parameters(engine).items() if not torch.equal(value, stored.read(f"model.{name}"))]
    return different, tiny.train(made, engine=engine).losses[0]


@needs_transformers
def test_a_run_goes_on_from_what_was_imported(tmp_path: Path) -> None:
    import transformers

    llama(tmp_path / "llama")
    assert main(["import", str(tmp_path / "llama"), str(tmp_path / "run")]) == 0
    path = find(tmp_path / "run", "auto")
    assert path == directory(tmp_path / "run", 0)
    made = config(tmp_path / "run", GPT(**SMALL, vocab_size=256), FSDP())
    results = ranks.run(2, trained_on, made, path)
    assert [different for different, _ in results] == [[], []]
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    original, exported = (transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32) for name in ("llama", "out"))
    assert all(torch.equal(value, exported.state_dict()[name]) for name, value in original.state_dict().items())


def command(words: list[str]) -> int:
    """`python -m trainer WORDS` in a process that has imported torch already; its exit status."""
    from trainer import __main__, cli

    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        del os.environ[name]
    return cli.main(__main__.train, words)


@needs_transformers
def test_the_printed_command_trains_on_and_then_from_its_own_newest_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llama(tmp_path / "llama", **LLAMAS["llama 3, tied"])
    run_dir = tmp_path / "run with a space"
    assert main(["import", str(tmp_path / "llama"), str(run_dir)]) == 0
    words = printed(capsys)
    [(_, loss)] = ranks.run(1, trained_on, config(run_dir, gpt(words)), directory(run_dir, 0))
    data = ["data=synthetic", "data.samples=64", "data.eval_samples=4", "data.vocab_size=50", "data.seq_len=32", "train.global_batch_size=8"]
    for steps in (2, 3):
        status = ranks.run(1, command, [*words, *data, "model.sample_tokens=1", f"train.max_steps={steps}"], group=False)
        assert status == [0]
    sessions = json.loads((run_dir / "run.json").read_text())["sessions"]
    assert [(start["first_step"], start["resumed_from"]) for start in sessions] == [(step + 1, str(directory(run_dir, step))) for step in (0, 2)]
    assert losses(run_dir)[0][1] == pytest.approx(loss, rel=1e-5)


@needs_transformers
def test_what_cannot_be_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import transformers

    place, run_dir = tmp_path / "model", tmp_path / "run"
    for config_, reason in (
        (transformers.LlamaConfig(attention_bias=True), "attention_bias is True, not False"),
        (
            transformers.LlamaConfig(hidden_size=16, num_attention_heads=2, head_dim=16, hidden_act="gelu"),
            "hidden_act is 'gelu', not 'silu'; head_dim is 16, not 8",
        ),
        (
            transformers.LlamaConfig(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
            "rope_type is 'linear', not 'default' or 'llama3'",
        ),
        (transformers.GPT2Config(), "model_type is 'gpt2', not 'llama'"),
    ):
        config_.save_pretrained(place)
        assert main(["import", str(place), str(run_dir)]) == 2
        told = f"is not a Llama that model=gpt can be ({reason}). Train it as it is, without importing: model=hf model.path={place}"
        assert capsys.readouterr().err == f"error: {place}: {told}\n"
    transformers.LlamaConfig().save_pretrained(place)
    assert main(["import", str(place), str(run_dir)]) == 2
    assert "has no weights" in capsys.readouterr().err
    llama(tmp_path / "llama")
    changed = json.loads((tmp_path / "llama/config.json").read_text()) | {"intermediate_size": 32}
    (tmp_path / "llama/config.json").write_text(json.dumps(changed))
    assert main(["import", str(tmp_path / "llama"), str(run_dir)]) == 2
    assert "model.layers.0.mlp.gate_proj.weight is (24, 16), and its config.json makes it (32, 16)" in capsys.readouterr().err
    assert list(run_dir.glob("checkpoints/*")) == list(run_dir.glob("checkpoints/.*")) == []
    path, _ = checkpoint(config(run_dir, GPT(**SMALL)))
    assert main(["import", str(tmp_path / "llama"), str(run_dir)]) == 2
    assert capsys.readouterr().err == f"error: {run_dir}: has checkpoints already; import into a new run directory\n"
    assert path.is_dir()
