"""Whether a checkpoint's files are what was written: every sha256 again, with progress. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from trainer.checkpoint.directory import Damaged, read_manifest, sha256, unreadable
from trainer.errors import ConfigError, RunError

PROGRESS_AFTER = 2.0  # seconds


def problems(path: Path) -> list[str]:
    """What is wrong with the checkpoint at `path`, a line for each file; nothing for one that is as it was written.

    Progress is shown on the standard error where it takes more than two seconds.
    """
    try:
        return [f"{path}: {wrong}" for wrong in _wrong_files(path, read_manifest(path)["files"])]
    except Damaged as error:
        return [f"{path}: {error.what}"]
    except (ConfigError, RunError) as error:  # the others of the run are checked all the same
        return [str(error)]


def _wrong_files(path: Path, files: Mapping[str, str]) -> list[str]:
    try:
        here = {file.name: file.stat().st_size for file in path.iterdir() if file.suffix == ".safetensors"}
    except OSError as error:
        raise unreadable(path, error) from error
    wrong = [f"{name} is missing" for name in sorted(files.keys() - here.keys())]
    wrong += [f"{name} is not of this checkpoint" for name in sorted(here.keys() - files.keys())]
    total = sum(here.get(name, 0) for name in files)
    with tqdm(total=total, desc=f"checking {path.name}", unit="B", unit_scale=True, delay=PROGRESS_AFTER, leave=False) as bar:
        for name in sorted(files.keys() & here.keys()):
            try:
                if sha256(path / name, bar.update) != files[name]:
                    wrong.append(f"{name} is not what was written")
            except OSError as error:
                wrong.append(f"{name} cannot be read ({error.strerror or error})")
    return sorted(wrong)


def check(path: Path) -> None:
    """Raise for a checkpoint that cannot be trusted.

    Raises:
        ConfigError: its format is newer than is known here, or this user may not read it.
        RunError: a file is damaged or missing; names it.
    """
    try:
        manifest = read_manifest(path)
    except Damaged as error:
        raise RunError(f"{path}: is damaged: {error.what}") from error
    if wrong := _wrong_files(path, manifest["files"]):
        raise RunError(f"{path}: is damaged: {'; '.join(wrong)}")
