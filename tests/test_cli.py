"""Commands and their mistakes: exit status, exact message, nothing started, torch not imported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import ROOT, TINY, run, run_without_torch
from trainer.cli import normalise, report
from trainer.errors import ConfigError
from trainer.launchers.base import count_gpus


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("strategy=fsdp", "+strategy=fsdp"),
        ("+strategy=fsdp", "+strategy=fsdp"),
        ("++strategy=fsdp", "+strategy=fsdp"),
        ("+model=gpt", "model=gpt"),
        ("model=gpt", "model=gpt"),
        ("+strategy=ddp,fsdp", "+strategy=ddp,fsdp"),
        ("strategy.no_sync=true", "strategy.no_sync=true"),
        ("train.seed=1", "train.seed=1"),
        ("--cfg", "--cfg"),
    ],
)
def test_every_group_takes_both_spellings(given, wanted):
    assert normalise([given]) == [wanted]


@pytest.mark.parametrize("arguments", [["strategy=fsdp"], ["+strategy=fsdp"]])
def test_cfg_job_shows_every_key_without_torch(arguments, tmp_path):
    done = run_without_torch(*arguments, "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "reshard_after_forward: true" in done.stdout
    assert "max_norm: 1.0" in done.stdout
    assert "layers:" in done.stdout


def test_help_answers_without_torch(tmp_path):
    done = run_without_torch("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "+strategy=NAME" in done.stdout
    assert "ddp" in done.stdout
    assert "75 stopped and resumable" in done.stdout


CHOICES = ", ".join(sorted(path.stem for path in (ROOT / "configs" / "strategy").glob("*.yaml")))
MISTAKES = [
    (["strategy=fsdb"], f"error: strategy=fsdb: there is no such strategy; did you mean 'fsdp'? Choices: {CHOICES}\n"),
    (["model=gtp"], "error: model=gtp: there is no such model; did you mean 'gpt'? Choices: "),
    (["optim.lrr=3"], "error: unknown key 'optim.lrr'; did you mean 'optim.lr'?\n"),
    (["+optim.lrr=3"], "error: unknown key 'optim.lrr'; did you mean 'optim.lr'?\n"),
    (["++optim.lrr=3"], "error: unknown key 'optim.lrr'; did you mean 'optim.lr'?\n"),
    (
        ["strategy=fsdp", "strategy.reshard_after_foward=1"],
        "error: unknown key 'strategy.reshard_after_foward'; did you mean 'strategy.reshard_after_forward'?\n",
    ),
    (["strategy=fsdp", "+strategy.no_snyc=1"], "error: unknown key 'strategy.no_snyc'; did you mean 'strategy.no_sync'?\n"),
    (["strategy.no_sync=true"], "error: strategy.no_sync=true: no strategy is chosen, so there is none to have it; add strategy=NAME\n"),
    (["trian.max_steps=3"], "error: unknown key 'trian.max_steps'; did you mean 'train.max_steps'?\n"),
    (["max_steps=3"], "error: unknown key 'max_steps'; did you mean 'train.max_steps'?\n"),
    (["+max_steps=3"], "error: unknown key 'max_steps'; did you mean 'train.max_steps'?\n"),
    (["modle=gpt"], "error: unknown key 'modle'; did you mean 'model'?\n"),
    (["train.max_steps=many"], "error: train.max_steps=many: must be an integer\n"),
    (["train.max_steps=1.5"], "error: train.max_steps=1.5: must be an integer\n"),
    (["optim.lr=fast"], "error: optim.lr=fast: must be a number\n"),
    (["train.compile=maybe"], "error: train.compile=maybe: must be true or false\n"),
    (["optim.name=lion"], "error: optim.name=lion: must be one of adamw, adam, sgd, adafactor\n"),
    (["train.max_steps=0"], "error: train.max_steps=0: must be at least 1\n"),
    *[
        (
            [f"checkpoint.every={every}"],
            f"error: checkpoint.every={every}: must be a number of steps (0: save only at the end) or a time with its unit, e.g. 90s, 10m, 2h\n",
        )
        for every in ("-1", "0m", "ten")
    ],
    *[([f"train.seed={seed}"], f"error: train.seed={seed}: must be from 0 to 9223372036854775807\n") for seed in (-1, 2**63)],
    (["optim.lr=-1"], "error: optim.lr=-1.0: must be at least 0\n"),
    (["optim.lr=nan"], "error: optim.lr=nan: must be at least 0\n"),
    (["train.stop_at=9", "train.max_steps=5"], "error: train.stop_at=9: is beyond train.max_steps=5; the run ends there anyway\n"),
    (["optim.momentum=0.9"], "error: optim.momentum=0.9: has no effect with optim.name=adamw; use optim.name=sgd, or optim.betas\n"),
    (
        ["strategy=ddp", "launcher.nproc_per_node=3"],
        "error: train.global_batch_size=16: cannot be divided over 3 processes; nearest batch sizes that can: 15, 18; nearest process counts: 2, 4\n",
    ),
    (
        ["strategy=ddp", "launcher.nproc_per_node=4", "train.global_batch_size=3"],
        "error: train.global_batch_size=3: is smaller than the 4 processes; give at least 4, or run on at most 3\n",
    ),
    (
        ["strategy=ddp", "launcher.nproc_per_node=2", "train.micro_batch_size=3"],
        "error: train.micro_batch_size=3: does not divide the 8 samples that each of 2 processes takes of train.global_batch_size=16; nearest that do: 2, 4\n",
    ),
    (
        ["strategy=single", "launcher.nproc_per_node=2"],
        "error: strategy=single: is for 1 process, and there are 2; use strategy=ddp, or launcher.nproc_per_node=1\n",
    ),
    (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
    (["train.max_steps"], "error: train.max_steps: is not of the form key=value ("),
    (["train=3"], "error: train=3: is a section of keys; set one of them, e.g. train.KEY=VALUE\n"),
    (["=3"], "error: =3: is not of the form key=value ("),
    (["train.max_steps=1", "model=3"], "error: model=3: there is no such model (known: "),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_is_named_before_anything_starts(arguments, message, tmp_path):
    done = run_without_torch(*arguments, cwd=tmp_path)
    assert message in done.stderr
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


MORE_MISTAKES = [
    (["train={max_stepz:3}"], "error: unknown key 'train.max_stepz'; did you mean 'train.max_steps'?\n"),
    (["model={facter:3}"], "error: unknown key 'model.facter'; did you mean 'model.rope_scaling.factor'?\n"),
    (["++train.foo=1"], "error: unknown key 'train.foo' (known: train.activation_checkpointing, train.compile, "),
    (["+train={foo:1}"], "error: unknown key 'train.foo' (known: train.activation_checkpointing, train.compile, "),
    (["strategy={a:3}"], "error: strategy={a:3}: no strategy is chosen, so there is none to have it; add strategy=NAME\n"),
    (["strategy=fsdp,ddp"], "error: strategy=fsdp,ddp: several choices, each for a run of its own, need -m; "),
    (["data=text", "data.paths=a.txt"], "error: data.paths=a.txt: must be a list, which is written data.paths=[a.txt]\n"),
    (["profile.steps=10"], "error: profile.steps=10: must be a list, which is written profile.steps=[10]\n"),
    (["optim.betas=[a,b]"], "error: optim.betas[0]=a: must be a number\n"),
    (["--config-dir", "nope"], "error: --config-dir nope: there is no such directory\n"),
    (["--config-dir=nope"], "error: --config-dir nope: there is no such directory\n"),
    (["--config-name", "nope"], "error: --config-name nope: there is no nope.yaml here; --config-dir DIR adds a directory of your own\n"),
    (["optim.betas=[1.5,0.9]"], "error: optim.betas=[1.5, 0.9]: must be two numbers, each at least 0 and below 1, e.g. [0.9,0.95]\n"),
    (["optim.betas=[0.9]"], "error: optim.betas=[0.9]: must be two numbers, "),
    (["optim.betas=[nan,0.9]"], "error: optim.betas=[nan, 0.9]: must be two numbers, "),
    (["optim.eps=-1"], "error: optim.eps=-1.0: must be at least 0\n"),
    (["optim.lr=inf"], "error: optim.lr=inf: must be a finite number\n"),
    (["launcher.master_port=99999"], "error: launcher.master_port=99999: must be from 1 to 65535, or null for a free one (one machine only)\n"),
    (["launcher.master_port=0"], "error: launcher.master_port=0: must be from 1 to 65535, "),
    (["strategy=ddp", "strategy.bucket_cap_mb=-1"], "error: strategy.bucket_cap_mb=-1: must be at least 1, or null for PyTorch's default\n"),
    (["strategy=accelerate", "strategy.bucket_cap_mb=0"], "error: strategy.bucket_cap_mb=0: must be at least 1, or null for PyTorch's default\n"),
    (["model.rope_theta=0"], "error: model.rope_theta=0.0: must be a finite number more than 0\n"),
]


@pytest.mark.parametrize(("arguments", "message"), MORE_MISTAKES, ids=[" ".join(arguments) for arguments, _ in MORE_MISTAKES])
def test_a_mistake_is_named_with_its_key_and_what_would_be_right(arguments, message, capsys):
    ran: list = []
    assert main_quietly(ran.append, arguments) == 2
    assert capsys.readouterr().err.startswith(message)
    assert ran == []


OWN_YAML = [
    ("strategy/mine", "_target_: trainer.strategies.fsdp.FSDP\nno_snyc: true\n", "{path}: unknown key 'no_snyc'; did you mean 'no_sync'?"),
    (
        "model/mine",
        "_target_: trainer.models.gpt.GPT\nrope_scaling: {facter: 2}\n",
        "{path}: unknown key 'rope_scaling.facter'; did you mean 'rope_scaling.factor'?",
    ),
    ("model/mine", "_target_: trainer.models.gpt.GPT\nlayers: many\n", "{path}: layers=many: must be an integer"),
    ("model/mine", "layers: 3\n", "model/mine.yaml: unknown key 'model.layers': a YAML without `_target_: PACKAGE.MODULE.CLASS` has no keys of its own"),
    ("model/mine", "layers: [3\n", "{path}:2: is not YAML (expected ',' or ']', but got '<stream end>')"),
    (
        "experiment/mine",
        "# @package _global_\ntrain: {max_stepz: 3}\n",
        "experiment/mine.yaml: unknown key 'train.max_stepz'; did you mean 'train.max_steps'?",
    ),
    ("experiment/mine", "# @package _global_\ntrain: {max_steps: many}\n", "experiment/mine.yaml: train.max_steps=many: must be an integer"),
]


@pytest.mark.parametrize(("name", "text", "message"), OWN_YAML, ids=[message for _, _, message in OWN_YAML])
def test_a_mistake_in_a_yaml_of_ones_own_is_named_with_its_file(name, text, message, tmp_path, capsys):
    path = tmp_path / f"{name}.yaml"
    path.parent.mkdir()
    path.write_text(text)
    group, _, choice = name.partition("/")
    assert main_quietly(lambda config: None, ["--config-dir", str(tmp_path), f"+{group}={choice}"]) == 2
    assert capsys.readouterr().err == f"error: {message.format(path=path)}\n"


def test_an_unknown_key_is_explained_beside_a_choice_that_cannot_be_composed():
    from omegaconf.errors import ConfigKeyError

    from trainer.errors_config import explain

    error = ConfigKeyError("Key 'max_stepz' not in 'TrainConfig'\n    full_key: train.max_stepz")
    assert str(explain(error, ["+strategy=nowhere"])) == "unknown key 'train.max_stepz'; did you mean 'train.max_steps'?"


def test_a_traceback_on_request(tmp_path):
    done = run_without_torch("strategy=fsdb", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(("local_rank", "patience", "said"), [("0", 0.0, True), ("1", 0.0, False), ("1", 0.01, True)])
def test_local_rank_0_speaks_for_all_and_the_others_only_if_it_has_nothing_to_say(local_rank, patience, said, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert report(ConfigError("no such key"), patience=patience) == 2
    assert capsys.readouterr().err == ("error: no such key\n" if said else "")


def test_a_mistake_in_a_multirun_is_found_before_the_first_run(tmp_path):
    done = run_without_torch("-m", "+strategy=single,fsdb", cwd=tmp_path)
    assert "strategy=fsdb: there is no such strategy" in done.stderr
    assert done.returncode == 2


def test_multirun_gives_each_run_its_own_directory_once(tmp_path):
    done = run("-m", "+strategy=single,ddp", "launcher.nproc_per_node=1", "train.max_steps=2", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    directories = sorted(path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert [path.name.rsplit("-", 1)[0] for path in directories] == ["gpt-ddp", "gpt-single"]
    losses = [[json.loads(line)["loss"] for line in (path / "metrics.jsonl").read_text().splitlines()] for path in directories]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2


def test_the_same_command_names_the_same_directory(tmp_path):
    from trainer.config import default_name

    names = []
    for arguments in (["train.seed=1"], ["train.seed=1", "log.every=3"], ["train.seed=2"]):
        seen: list[str] = []
        assert main_quietly(lambda config, seen=seen: seen.append(default_name(config)), arguments) == 0
        names += seen
    assert names[0] == names[1] != names[2]


def main_quietly(task, arguments: list[str]) -> int:
    from trainer.cli import main

    return main(task, arguments)


@pytest.fixture(autouse=True)
def _nothing_in_the_checkout():
    before = set(ROOT.iterdir())
    yield
    assert {path for path in set(ROOT.iterdir()) - before if path.suffix in (".log", ".yaml")} == set()


def test_paths_are_relative_to_where_the_command_runs(tmp_path):
    done = run("train.max_steps=1", "run_dir=here", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(tmp_path, "here", "config.yaml").is_file()


@pytest.mark.parametrize(("kind", "status"), [("Stopped", 75), ("Interrupted", 1)])
def test_a_stop_ends_the_sweep(kind, status, tmp_path):
    from trainer import errors

    ran = []

    def task(config):
        ran.append(config.train.seed)
        raise getattr(errors, kind)("at step 1")

    assert main_quietly(task, ["-m", "train.seed=1,2", "hydra.sweep.dir=" + str(tmp_path)]) == status
    assert ran == [1]


DATA_MISTAKES = [
    (["data=text", "data.paths=[nothing/*.txt]"], "error: data.paths=nothing/*.txt: no file matches\n"),
    (["data=text", "data.paths=[broken.jsonl]"], "error: broken.jsonl:2: "),
    (["data=text", "data.paths=[empty.jsonl]"], "error: data.paths: empty.jsonl: is empty\n"),
    (["data=text", "data.paths=[broken.parquet]"], "error: broken.parquet: "),
    (["model=mlp", "data=tabular", "data.target=y"], "error: data.path: is needed, and not given\n"),
    (["model=mlp", "data=tabular", "data.path=nothing.csv", "data.target=y"], "error: nothing.csv: cannot be read: No such file or directory\n"),
    (["data=synthetic", "model=cnn"], "error: model=cnn needs images, but the data has "),
    (["data=synthetic", "model=mlp"], "error: model=mlp needs a table or images, but the data has "),
    (["data=synthetic", "model.vocab_size=10"], "error: model.vocab_size=10: the data has token ids up to "),
    (["data=synthetic", "checkpoint.resume=nowhere"], "error: checkpoint.resume=nowhere: is neither a whole checkpoint (a directory with manifest.json) nor "),
    pytest.param(
        ["data=synthetic", "train.device=cuda"],
        "error: train.device=cuda: PyTorch finds no GPU here; use train.device=auto or cpu, or install a driver and a CUDA build of PyTorch\n",
        marks=pytest.mark.skipif(count_gpus() > 0, reason="there is a GPU"),
    ),
]


@pytest.mark.parametrize(("arguments", "message"), DATA_MISTAKES)
def test_what_does_not_fit_data_or_machine_is_named_before_any_process_starts(arguments, message, tmp_path):
    (tmp_path / "broken.jsonl").write_text('{"text": "one"}\n{"text": \n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    done = run_without_torch(*arguments, "strategy=ddp", cwd=tmp_path, TRAINER_CACHE=str(tmp_path / "cache"))
    assert message in done.stderr
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
