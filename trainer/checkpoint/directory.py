"""Where a run's checkpoints are, which of them are whole, and whether the run is over. Nothing here imports torch.

`run_dir`/checkpoints/step-00000020/ is a checkpoint once it has `manifest.json`, which is written last.
`run_dir`/checkpoints/damaged-step-00000020/ was one: it is kept aside, and never taken, counted or deleted.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.callbacks.record import REPORT, read_record
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.config import Config

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
PIECE = 1 << 22  # bytes of a file read at once
CHECKSUM = "checksum"
"""Key of a manifest under which the digest of the rest of it stands."""


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
    """The step of the checkpoint at `path`, from its name."""
    return int(path.name.removeprefix("step-"))


def list_whole(run_dir: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted((path.parent for path in run_dir.glob(f"checkpoints/step-*/{MANIFEST}")), key=step_of)


def newest_step(run_dir: Path) -> int:
    """The step of the newest whole checkpoint, 0 where there is none."""
    return max((step_of(path) for path in list_whole(run_dir)), default=0)


def find(run_dir: Path, resume: str) -> Path | None:
    """The checkpoint that `checkpoint.resume` ("auto", "never" or a path) means, or None.

    Raises:
        ConfigError: a path that is not a whole checkpoint, or every checkpoint of the run is damaged.
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
    if (path / MANIFEST).is_file():
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
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        found = {**manifest, "step": int(manifest["step"]), "tokens": int(manifest["tokens"]), "files": dict(manifest["files"])}
        newer = manifest["format_version"] > FORMAT_VERSION
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(path, f"{MANIFEST} cannot be read ({type(error).__name__}: {error})") from error
    if not newer and CHECKSUM in manifest and sealed(manifest)[CHECKSUM] != manifest[CHECKSUM]:
        raise Damaged(path, f"{MANIFEST} is not what was written")
    return found


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """`manifest`, as JSON gives it back, with the digest of all else in it."""
    plain = json.loads(json.dumps(manifest))
    plain.pop(CHECKSUM, None)
    return {**plain, CHECKSUM: hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()}


def check_format(path: Path, manifest: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for a checkpoint of a newer format than is known here."""
    if manifest["format_version"] > FORMAT_VERSION:
        raise ConfigError(f"{path}: has format {manifest['format_version']}, newer than {FORMAT_VERSION}, the newest that this version reads")


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


def remove(path: Path) -> None:
    """Delete a checkpoint. The manifest goes first, so that it is never taken for a whole one."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path)


def remove_old(run_dir: Path, keep: int) -> None:
    """Delete all but the newest `keep` whole checkpoints. On rank 0 alone."""
    for path in list_whole(run_dir)[:-keep]:
        remove(path)


def remove_after(run_dir: Path, step: int) -> None:
    """Delete whole checkpoints later than `step`: they are of a run that this one replaces. On rank 0 alone."""
    for path in list_whole(run_dir):
        if step_of(path) > step:
            remove(path)


def last_step(config: Config) -> int:
    """Where this run ends: `train.stop_at` or `train.max_steps`."""
    return config.train.stop_at or config.train.max_steps


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
