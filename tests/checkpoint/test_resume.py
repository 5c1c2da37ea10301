"""Going on from a damaged checkpoint: the newest whole one is taken, the damaged one is named and kept aside."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests import ranks, tiny
from tests.checkpoint.test_checkpoint import written
from tests.commands import without_privileges
from tests.test_worker import metrics, run
from trainer.checkpoint.directory import MANIFEST, UNFINISHED, directory, find, list_whole
from trainer.checkpoint.resume import resume
from trainer.config import Config
from trainer.errors import ConfigError, RunError, Stopped
from trainer.sections import CheckpointConfig, LogConfig
from trainer.strategies.ddp import DDP
from trainer.strategies.single import Single


def said(config: Config) -> tuple[str, str]:
    """What a run ends with on this rank, and what it printed on stderr."""
    with contextlib.redirect_stderr(io.StringIO()) as err:
        return run(config), err.getvalue()


def make(run_dir: Path) -> Config:
    return dataclasses.replace(tiny.config(DDP(), run_dir, max_steps=6), checkpoint=CheckpointConfig(every=2, keep=2))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps that was stopped after 4, with checkpoints of steps 2 and 4."""
    config = make(tmp_path_factory.mktemp("stopped"))
    assert ranks.run(2, run, dataclasses.replace(config, train=dataclasses.replace(config.train, stop_at=4))) == ["done"] * 2
    assert config.run_dir is not None
    return Path(config.run_dir)


@pytest.fixture
def config(stopped: Path, tmp_path: Path) -> Config:
    shutil.copytree(stopped, tmp_path / "run")
    return make(tmp_path / "run")


def damage(path: Path, how: str) -> str:
    """Damage a checkpoint; what is to be said of it."""
    file = sorted(path.glob("*.safetensors"))[1]
    content, manifest = file.read_bytes(), (path / MANIFEST).read_text()
    if how == "missing":
        file.unlink()
        return f"{file.name} is missing"
    if how == "manifest missing":
        (path / MANIFEST).unlink()
        return f"its {MANIFEST} is missing"
    if how == "manifest cut":
        (path / MANIFEST).write_text(manifest[: len(manifest) // 2])
        return f"{MANIFEST} cannot be read (JSONDecodeError: "
    if how == "manifest flipped":  # still JSON, with another number of tokens
        (path / MANIFEST).write_text(manifest.replace('"tokens": 1', '"tokens": 3'))
        return f"{MANIFEST} is not what was written"
    if how == "format flipped":
        (path / MANIFEST).write_text(manifest.replace('"format_version": 1', '"format_version": 3'))
        return f"{MANIFEST} is not what was written"
    middle = len(content) // 2
    file.write_bytes(content[:-9] if how == "truncated" else content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    return f"{file.name} is not what was written"


@pytest.mark.parametrize("how", ["truncated", "flipped", "missing", "manifest missing", "manifest cut", "manifest flipped", "format flipped"])
def test_the_newest_whole_one_is_taken_and_the_damaged_one_kept_aside(how: str, config: Config) -> None:
    run_dir = Path(str(config.run_dir))
    newest = directory(run_dir, 4)
    what = damage(newest, how)
    content = {path.name: path.read_bytes() for path in newest.iterdir()}
    (first, told), (second, other) = ranks.run(2, said, config)
    assert (first, second, other) == ("done", "done", "")
    assert told.startswith(f"warning: {newest} is damaged: {what}")
    assert told.endswith("; it is kept aside as damaged-step-00000004, and the newest whole checkpoint is taken\n")
    assert told.count("\n") == 1
    assert json.loads((run_dir / "run.json").read_text())["sessions"][-1]["first_step"] == 3
    aside = run_dir / "checkpoints" / "damaged-step-00000004"
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == content
    assert list_whole(run_dir) == [directory(run_dir, 4), directory(run_dir, 6)]  # `keep` does not count the damaged one
    assert [line["step"] for line in metrics(run_dir)] == [1, 2, 3, 4, 5, 6]


def test_one_whose_save_did_not_end_is_passed_over_and_goes(config: Config) -> None:
    run_dir = Path(str(config.run_dir))
    shutil.copytree(directory(run_dir, 4), directory(run_dir, 1))  # older than the one that is taken
    for step in (1, 4):
        (directory(run_dir, step) / MANIFEST).rename(directory(run_dir, step) / UNFINISHED)
    assert ranks.run(2, said, config) == [("done", "")] * 2
    assert json.loads((run_dir / "run.json").read_text())["sessions"][-1]["first_step"] == 3
    assert sorted((run_dir / "checkpoints").iterdir()) == list_whole(run_dir) == [directory(run_dir, 4), directory(run_dir, 6)]


def test_all_are_damaged(config: Config) -> None:
    run_dir = Path(str(config.run_dir))
    for step in (2, 4):
        damage(directory(run_dir, step), "flipped")
    (first, told), (second, _) = ranks.run(2, said, config)
    assert (first, told.count("kept aside as")) == (second, 2)
    assert first == (
        f"ConfigError: {run_dir}: no checkpoint of this run is whole; the damaged ones are kept aside: "
        f"{run_dir}/checkpoints/damaged-step-00000002, {run_dir}/checkpoints/damaged-step-00000004\n"
        "  to start again from the first step: checkpoint.resume=never, or another run_dir="
    )
    before = metrics(run_dir)
    assert ranks.run(2, said, config) == [(first, "")] * 2  # also the second time
    assert metrics(run_dir) == before
    again = dataclasses.replace(config, checkpoint=CheckpointConfig(every=2, keep=2, resume="never"))
    assert ranks.run(2, said, again) == [("done", "")] * 2
    damage(directory(run_dir, 4), "missing")
    damage(directory(run_dir, 6), "manifest missing")
    ranks.run(2, said, config)
    names = sorted(path.name for path in (run_dir / "checkpoints").glob("damaged-*"))
    assert names == ["damaged-step-00000002", "damaged-step-00000004", "damaged-step-00000004-2", "damaged-step-00000006"]
    assert find(run_dir, "never") is None


def test_a_damaged_one_that_was_asked_for_is_an_error(config: Config) -> None:
    newest = directory(Path(str(config.run_dir)), 4)
    what = damage(newest, "flipped")
    given = dataclasses.replace(config, checkpoint=CheckpointConfig(resume=str(newest)))
    (first, told), (second, _) = ranks.run(2, said, given)
    assert first == second
    assert first.startswith(f"Damaged: {newest}: is damaged: {what}; give another with checkpoint.resume=PATH, or checkpoint.resume=auto")
    assert told == ""
    assert newest.exists()


def start(config: Config, launches: list[str]) -> tuple[str, str]:
    """A start that is stopped after one step: what it ends with on this rank, and what it printed on stderr."""
    from trainer.distributed import Place
    from trainer.worker import run as work

    rank = int(os.environ["RANK"])
    with contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            work(dataclasses.replace(config, log=LogConfig(progress=False)), Place(rank, 2, 0, launches[rank]), [15])
        except Stopped as error:
            return str(error), err.getvalue()
    return "done", err.getvalue()


def went(run_dir: Path, step: int) -> str:
    return f"at step {step}, saved in {directory(run_dir, step)}; run the same command with checkpoint.resume=auto run_dir={run_dir} to go on"


def test_ranks_that_are_started_again_go_on_from_what_their_launch_has_written(config: Config) -> None:
    """Of two torchruns one that is still there tells which launch it is; the next launch begins anew, as it is told."""
    run_dir = Path(str(config.run_dir))
    never = dataclasses.replace(config, checkpoint=CheckpointConfig(every=1, keep=9, resume="never"))
    for launches, step in [(["a", "b"], 1), (["b", "c"], 2), (["d", "e"], 1)]:
        assert ranks.run(2, start, never, launches) == [(went(run_dir, step), "")] * 2
        assert list_whole(run_dir) == [directory(run_dir, number) for number in range(1, step + 1)]


def test_ranks_that_are_started_again_pass_over_what_is_damaged(stopped: Path, config: Config) -> None:
    """Never to another launch's checkpoint, though it lies in the same directory."""
    run_dir = Path(str(config.run_dir))
    shutil.copytree(directory(stopped, 2), directory(run_dir, 1))
    given = dataclasses.replace(config, checkpoint=CheckpointConfig(every=1, keep=9, resume=str(directory(stopped, 2))))
    for step in (3, 4):
        assert ranks.run(2, start, given, ["a", "a"])[0] == (went(run_dir, step), "")
    damage(directory(run_dir, 4), "manifest cut")
    told, err = ranks.run(2, start, given, ["a", "a"])[0]
    assert (told, err.count("it is kept aside as damaged-step-00000004")) == (went(run_dir, 4), 1)
    for step in (3, 4):
        damage(directory(run_dir, step), "flipped")
    told, err = ranks.run(2, start, given, ["a", "a"])[0]
    assert (told, err.count("it is kept aside as")) == (went(run_dir, 3), 2)
    assert list_whole(run_dir) == [directory(run_dir, step) for step in (1, 2, 3)]


def resumed_without(config: Config, closed: list[Path], broken: list[Path]) -> list[str]:
    """What going on from the newest checkpoint ends with where one path is closed to this user, or a file gives an I/O error; last without either."""
    engine, run_dir = tiny.make_engine(config), Path(str(config.run_dir))

    def ends() -> str:
        try:
            position, _ = resume(engine, run_dir, "auto", tiny.facts(config))
        except (ConfigError, RunError) as error:
            return f"{type(error).__name__}: {error}"
        return f"step {position.step}"

    told = []
    for path in closed:
        mode = path.stat().st_mode
        path.chmod(0)
        with without_privileges():
            told.append(ends())
        path.chmod(mode)
    for path in broken:
        kept = path.rename(path.with_name("kept"))
        path.symlink_to("/proc/self/mem")  # of which nothing at 0 can be read
        told.append(ends())
        kept.replace(path)
    return [*told, ends()]


def test_what_cannot_be_read_is_no_damage() -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own is closed to others
        run_dir = Path(place)
        run_dir.chmod(0o755)
        config = tiny.config(Single(), run_dir)
        ranks.run(1, written, config, 3)
        newest = Path(ranks.run(1, written, config, 6)[0])
        (file,) = newest.glob("*.safetensors")
        manifest = newest / MANIFEST
        (told,) = ranks.run(1, resumed_without, config, [newest.parent, newest, manifest, file], [manifest, file])
        other = "or give another checkpoint with checkpoint.resume=PATH"
        assert told[:4] == [
            f"ConfigError: {what} (Permission denied); make it readable for this user, {other}"
            for what in [*(f"{path}: cannot be read" for path in (newest.parent, newest, manifest)), f"{file}: cannot be read on rank 0"]
        ]
        assert told[4:6] == [
            f"RunError: {what} (Input/output error); it is left as it is: run the same command again once it can be, {other}"
            for what in (f"{manifest}: cannot be read", f"{file}: cannot be read on rank 0")
        ]
        assert told[6:] == ["step 6"]
        assert list_whole(run_dir) == sorted((run_dir / "checkpoints").iterdir()) == [directory(run_dir, 3), newest]
