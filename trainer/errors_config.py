"""Hydra's and OmegaConf's errors, said as key, value and what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.errors import ConfigError
from trainer.validate import nearest


def explain(error: Exception, arguments: Sequence[str]) -> ConfigError:
    """`error`, raised while `arguments` were composed, as a `ConfigError` that names key, value and fix."""
    from omegaconf.errors import OmegaConfBaseException

    for link in _chain(error):
        if isinstance(link, ConfigError):
            return link
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
        said_by = next((link for link in _chain(error) if isinstance(link, OmegaConfBaseException)), error)
        first = _expected(text) or str(said_by).splitlines()[0]
        given = next((item.split("=", 1)[1] for item in arguments if item.lstrip("+").split("=", 1)[0] == key[1] and "=" in item), None)
        said = f"{key[1]}={given}" if given is not None else key[1]
        return ConfigError(f"{said}: {first}")
    knob = next((item for item in arguments if item.lstrip("+").startswith("strategy.")), None)
    if knob and "Unexpected type for root: NoneType" in text:  # OmegaConf's words for a key of what is null
        return ConfigError(f"{knob}: no strategy is chosen, so there is none to have it; add strategy=NAME")
    odd = next((item for item in arguments if not re.match(r"^[+~]{0,2}[A-Za-z_][\w./@]*=", item) and not item.startswith(("-", "~"))), None)
    group = re.search(r"Config group override must be a string", text) and next((item for item in arguments if "." not in item.split("=")[0]), None)
    if group and not odd:
        return ConfigError(_unknown_choice(*group.lstrip("+").split("=", 1)))
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ConfigError(f"{odd}: is not of the form key=value ({said})" if odd else said)


def _expected(text: str) -> str | None:
    """What OmegaConf wanted instead, in words."""
    choices = re.search(r"expected one of \[([^\]]+)\]", text)
    if choices:
        return f"must be one of {choices[1]}"
    section = re.search(r"is not a subclass of (\w+)Config\b", text)
    if section:
        return f"is a section of keys; set one of them, e.g. {section[1].lower()}.KEY=VALUE"
    if "missing mandatory value" in text:
        return "is needed, and not given"
    for said, wanted in [
        ("could not be converted to Integer", "an integer"),
        ("could not be converted to Float", "a number"),
        ("is not a valid bool", "true or false"),
        ("could not be converted to String", "a string"),
    ]:
        if said in text:
            return f"must be {wanted}"
    return None


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
    own = re.search(r"(?:^|\n)(?:--config-dir|-cd)[=\n](.+)", "\n".join(arguments))
    if own:
        choices.append(f"hydra.searchpath=['file://{Path(own[1]).resolve()}']")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return list(known_keys(compose("config", choices))) + sorted(every)
