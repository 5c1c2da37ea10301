"""Where a run's checkpoints are, which of them are whole, and whether the run is over. Nothing here imports torch.

`run_dir`/checkpoints/step-00000020/ is a checkpoint once it has `manifest.json`, which is written last.
`run_dir`/checkpoints/damaged-step-00000020/ was one: it is kept aside, and never taken, counted or deleted.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from trainer.callbacks.record import REPORT, read_record
from trainer.errors import ConfigError, RunError

if TYPE_CHECKING:
    from trainer.config import Config

MANIFEST = "manifest.json"
UNFINISHED = "unfinished"
"""A file that is there while a checkpoint is written or removed."""
NAME = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,})")  # as `directory` makes it: what is called otherwise, such as a copy, is left alone
FORMAT_VERSION = 1
PIECE = 1 << 22  # bytes of a file read at once
CHECKSUM = "checksum"
"""Key of a manifest under which the digest of the rest of it stands."""
LAUNCHES = "launches"
"""Key of a manifest with what the launch that has written it is known by (see `trainer.launch_id`)."""

MODEL_IDENTITY = "model_identity"
"""Key of a manifest with `Model.identity` of the model that it was made of; an imported or older one has none."""


class Damaged(ConfigError):
    """A checkpoint is not what was written. `what` is wrong with it, in words."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        super().__init__(f"{path}: is damaged: {what}; {without(path)}")

    def __reduce__(self) -> tuple[Any, ...]:  # ranks pass it on
        return Damaged, (self.path, self.what)


def directory(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of `step` is kept."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step of the checkpoint at `path`, from its name, which is one that `directory` makes."""
    return int(path.name.removeprefix("step-"))


def list_named(run_dir: Path) -> list[Path]:
    """What is named as a checkpoint of this run is, whole or not, oldest first.

    Raises:
        ConfigError, RunError: see `unreadable`.
    """
    place = run_dir / "checkpoints"
    try:
        return sorted((path for path in place.iterdir() if NAME.fullmatch(path.name)), key=step_of)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(place, error) from error


def list_whole(run_dir: Path) -> list[Path]:
    """Whole checkpoints, oldest first.

    Raises:
        ConfigError, RunError: see `unreadable`.
    """
    return [path for path in list_named(run_dir) if has_manifest(path)]


def list_unfinished(run_dir: Path) -> list[Path]:
    """Directories of a save or a removal that did not end, oldest first.

    Raises:
        ConfigError, RunError: see `unreadable`.
    """
    return [path for path in list_named(run_dir) if path.is_dir() and not path.is_symlink() and not has_manifest(path) and is_unfinished(path)]


def list_lost(run_dir: Path) -> list[Path]:
    """Directories of checkpoints whose manifest is missing although they were whole once, oldest first.

    Raises:
        ConfigError, RunError: see `unreadable`.
    """
    return [path for path in list_named(run_dir) if is_lost(path)]


def is_unfinished(path: Path) -> bool:
    """Whether a directory without a manifest is one of a save or a removal that did not end: marked so, or empty yet.

    Raises:
        ConfigError, RunError: see `unreadable`.
    """
    try:
        return (path / UNFINISHED).exists() or not any(path.iterdir())
    except OSError as error:
        raise unreadable(path, error) from error


def is_lost(path: Path) -> bool:
    """Whether `path` is a directory that was a whole checkpoint once, and whose manifest is missing.

    Raises:
        ConfigError, RunError: see `unreadable`.
    """
    return path.is_dir() and not path.is_symlink() and not has_manifest(path) and not is_unfinished(path)


def has_manifest(path: Path) -> bool:
    """Whether `path` is a whole checkpoint.

    Raises:
        ConfigError, RunError: see `unreadable`.
    """
    try:
        return S_ISREG((path / MANIFEST).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:  # it may well have one: an older checkpoint must not be taken instead
        raise unreadable(path, error) from error


def newest_step(run_dir: Path) -> int:
    """The step of the newest whole checkpoint, 0 where there is none."""
    return max((step_of(path) for path in list_whole(run_dir)), default=0)


def written_by(run_dir: Path, launches: Collection[str]) -> list[Path]:
    """Whole checkpoints that the launch which is known by any of `launches` has written, oldest first.

    They are the newest: a launch begins with removing what is later than where it begins. So what follows one of them is of
    it too, also where a manifest does not tell, because it is damaged.
    """
    whole = list_whole(run_dir)
    for index, path in enumerate(whole):
        with suppress(Damaged):
            if not set(launches).isdisjoint(read_manifest(path).get(LAUNCHES, ())):
                return whole[index:]
    return []


def find(run_dir: Path, resume: str) -> Path | None:
    """The checkpoint that `checkpoint.resume` ("auto", "never" or a path) means, or None.

    Raises:
        ConfigError: a path that is not a whole checkpoint, or every checkpoint of the run is damaged.
        ConfigError, RunError: see `unreadable`.
    """
    if resume == "never":
        return None
    if resume == "auto":
        whole = list_whole(run_dir)
        if not whole and (aside := sorted(run_dir.glob("checkpoints/damaged-step-*"))):
            raise ConfigError(
                f"{run_dir}: no checkpoint of this run is whole; the damaged ones are kept aside: {', '.join(str(path) for path in aside)}\n"
                "  to start again from the first step: checkpoint.resume=never, or another run_dir="
            )
        return whole[-1] if whole else None
    path = Path(resume)
    if has_manifest(path):
        return path
    whole = list_whole(path)
    if whole:
        return whole[-1]
    raise ConfigError(
        f"checkpoint.resume={resume}: is neither a whole checkpoint (a directory with {MANIFEST}) nor a run directory with one; or use auto, never"
    )


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a whole checkpoint.

    Raises:
        Damaged: it is not one, or not what was written.
        ConfigError: its format is newer than is known here, or there is none.
        ConfigError, RunError: see `unreadable`.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version = manifest["format_version"]
        newer = version > FORMAT_VERSION  # then nothing is known of the rest
        found = manifest if newer else {**manifest, "step": int(manifest["step"]), "tokens": int(manifest["tokens"]), "files": dict(manifest["files"])}
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: has no {MANIFEST}: it was not finished, or is being deleted") from error
    except OSError as error:
        raise unreadable(path / MANIFEST, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(path, f"{MANIFEST} cannot be read ({type(error).__name__}: {error})") from error
    if newer and CHECKSUM in manifest and sealed({**manifest, "format_version": FORMAT_VERSION})[CHECKSUM] == manifest[CHECKSUM]:
        raise Damaged(path, f"{MANIFEST} is not what was written")  # one bit makes 3 of 1
    if newer:
        raise ConfigError(f"{path}: has format {version}, newer than {FORMAT_VERSION}, the newest that this version reads")
    if CHECKSUM in manifest and sealed(manifest)[CHECKSUM] != manifest[CHECKSUM]:
        raise Damaged(path, f"{MANIFEST} is not what was written")
    return found


def unreadable(path: Path, error: OSError, where: str = "") -> ConfigError | RunError:
    """The error for what the system does not let this process read. That says nothing of what is in it: it is no damage."""
    told = f"{path}: cannot be read{where} ({error.strerror or error})"
    if isinstance(error, PermissionError):
        return ConfigError(f"{told}; make it readable for this user, or give another checkpoint with checkpoint.resume=PATH")
    return RunError(f"{told}; it is left as it is: run the same command again once it can be, or give another checkpoint with checkpoint.resume=PATH")


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """`manifest`, as JSON gives it back, with the digest of all else in it."""
    plain = json.loads(json.dumps(manifest))
    plain.pop(CHECKSUM, None)
    return {**plain, CHECKSUM: hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()}


def without(path: Path) -> str:
    """What to do about a checkpoint that was asked for and cannot be used."""
    return f"give another with checkpoint.resume=PATH, or checkpoint.resume=auto for the newest whole one of the run ({path} is left as it is)"


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that it is neither taken nor lost; returns where it is then. On rank 0 alone."""
    for number in itertools.count(1):
        aside = path.with_name(f"damaged-{path.name}" + (f"-{number}" if number > 1 else ""))
        if not aside.exists():
            path.rename(aside)
            return aside
    raise AssertionError


def sha256(path: Path, progress: Callable[[int], object] = lambda size: None) -> str:
    """Of a file's content, in hexadecimal. `progress` is told of each piece of so many bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            progress(len(piece))
    return digest.hexdigest()


def begin(path: Path) -> None:
    """Make the directory of a checkpoint that is going to be written, marked until `finish`."""
    path.mkdir(parents=True, exist_ok=True)
    (path / UNFINISHED).touch()


def finish(path: Path) -> None:
    """The manifest is there: take the mark away."""
    (path / UNFINISHED).unlink()


def remove(path: Path) -> None:
    """Delete a checkpoint, whole or not. The manifest goes first, the mark last: what a kill leaves is not taken for a whole one, nor for a damaged one."""
    with suppress(FileNotFoundError):
        (path / MANIFEST).replace(path / UNFINISHED)
    for entry in path.iterdir():
        if entry.name != UNFINISHED:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    shutil.rmtree(path)


def remove_old(run_dir: Path, keep: int) -> None:
    """Delete all but the newest `keep` whole checkpoints, and what did not get whole and is older than the newest. On rank 0 alone."""
    whole = list_whole(run_dir)
    for path in whole[:-keep]:
        remove(path)
    if whole:
        for path in list_unfinished(run_dir):
            if step_of(path) < step_of(whole[-1]):  # a save under way is of a later step
                remove(path)


def remove_after(run_dir: Path, step: int) -> None:
    """Delete whole checkpoints later than `step`: they are of a run that this one replaces. On rank 0 alone."""
    for path in list_whole(run_dir):
        if step_of(path) > step:
            remove(path)


def last_step(config: Config) -> int:
    """Where this run ends: `train.stop_at` or `train.max_steps`."""
    return config.train.max_steps if config.train.stop_at is None else config.train.stop_at


def finished(config: Config) -> str | None:
    """What to tell whoever starts a run that is already at its end, with its report written; None for any other."""
    assert config.run_dir is not None
    run_dir = Path(config.run_dir)
    whole = list_whole(run_dir) if config.checkpoint.resume == "auto" else []
    if not whole or step_of(whole[-1]) < last_step(config) or not (run_dir / REPORT).is_file():
        return None
    if read_record(run_dir).get("status") not in ("finished", "stopped"):
        return None
    step, steps = step_of(whole[-1]), config.train.max_steps
    if config.train.stop_at is not None and config.train.stop_at < steps:
        told = f"this run has come to train.stop_at={config.train.stop_at} (step {step} of {steps}) in {run_dir}"
        more = f"leave out train.stop_at, with run_dir={run_dir}"
    else:
        told = f"this run is finished (step {step} of {steps}) in {run_dir}"
        more = f"run_dir={run_dir} train.max_steps={2 * max(step, steps)}"
    return f"{told}\n  its report: {run_dir / REPORT}\n  to train further: {more}\n  to start again: checkpoint.resume=never, or another run_dir="
