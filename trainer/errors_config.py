"""Hydra's and OmegaConf's errors, said as key, value and what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.errors import ConfigError
from trainer.validate import nearest


def explain(error: BaseException, arguments: Sequence[str]) -> BaseException:
    """`error` as a `ConfigError` that names key, value and fix; other errors are returned as they are."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    for link in _chain(error):
        if isinstance(link, ConfigError):
            return link
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return error
    text = " ".join(str(link) for link in _chain(error))
    key = re.search(r"full_key: (\S+)", text)
    missing = re.search(r"Could not find '([\w/.-]+)'", text)
    if missing and "/" in missing[1]:
        return ConfigError(_unknown_choice(*missing[1].rsplit("/", 1)))
    override = re.search(r"Could not override '([^']+)'", text)
    if "not in struct" in text or "not in '" in text:
        name = override[1] if override else key[1] if key else text
        return ConfigError(f"unknown key {name!r}{nearest(name, _all_keys(arguments))}")
    if override and "No match in the defaults list" in text:
        name = override[1].split("@")[0].lstrip("+")
        return ConfigError(f"unknown key {name!r}{nearest(name, _all_keys(arguments))}")
    if key:
        first = str(list(_chain(error))[-1]).splitlines()[0]
        given = next((item.split("=", 1)[1] for item in arguments if item.lstrip("+").split("=", 1)[0] == key[1] and "=" in item), None)
        said = f"{key[1]}={given}" if given is not None else key[1]
        return ConfigError(f"{said}: {first}")
    return ConfigError(next(line for line in str(error).splitlines() if line.strip()))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unknown_choice(group: str, name: str) -> str:
    from trainer.config import config_dir

    directory = config_dir() / group
    names = sorted(path.stem for path in Path(directory).glob("*.yaml"))
    return f"{group}={name}: there is no such {group}{nearest(name, names)}" + (f" Choices: {', '.join(names)}" if names else "")


def _all_keys(arguments: Sequence[str]) -> list[str]:
    """Known keys of the config that the group choices among `arguments` compose."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from trainer.cli import groups
    from trainer.config import config_dir
    from trainer.validate import known_keys

    every = set.union(*groups())
    choices = [item for item in arguments if item.split("=")[0].lstrip("+") in every and "," not in item]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return list(known_keys(compose("config", choices))) + sorted(every)
