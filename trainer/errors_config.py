"""Hydra's and OmegaConf's errors, said as key, value and what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from yaml import YAMLError

from trainer.cli import WITH_VALUE, groups
from trainer.errors import ConfigError
from trainer.validate import nearest


def explain(error: Exception, arguments: Sequence[str]) -> ConfigError:
    """`error`, raised while `arguments` were composed, as a `ConfigError` that names key, value and fix."""
    for link in _chain(error):
        if isinstance(link, ConfigError):
            return link
    text = " ".join(str(link) for link in _chain(error))
    key = _key(text)
    composed = re.search(r"In '([^']+)': \w+ raised while composing", text)
    where = f"{composed[1]}.yaml: " if composed else ""
    missing = re.search(r"Could not (?:find|load) '([\w/.-]+)'", text)
    if missing and "/" in missing[1]:
        return ConfigError(_unknown_choice(*missing[1].rsplit("/", 1)))
    if wrong := _option(text, arguments):
        return ConfigError(wrong)
    override = re.search(r"Could not override '([^']+)'", text)
    if "not in struct" in text or "not in '" in text:
        name = override[1] if override and not (key and key.startswith(f"{override[1]}.")) else key or text
        if re.search(r"not in '(Strategy|Model|Data|Launcher)'", text):
            return ConfigError(f"{where}unknown key {name!r}: a YAML without `_target_: PACKAGE.MODULE.CLASS` has no keys of its own")
        return ConfigError(f"{where}unknown key {name!r}{nearest(name, _all_keys(arguments))}")
    if override and "No match in the defaults list" in text:
        name = override[1].split("@")[0].lstrip("+")
        return ConfigError(f"unknown key {name!r}{nearest(name, _all_keys(arguments))}")
    swept = re.search(r"Ambiguous value for argument '\+*([^']+)'", text)
    if swept:
        return ConfigError(f"{swept[1]}: several choices, each for a run of its own, need -m; one value that has commas is written in quotes, a list as [a,b]")
    knob = next((found for item in arguments if (found := re.match(r"\+*((strategy|assess)(?:\.|=\{).*)", item))), None)
    if knob and "NoneType" in text:  # OmegaConf's words for a key of what is null
        return ConfigError(f"{knob[1]}: no {knob[2]} is chosen, so there is none to have it; add {knob[2]}=NAME")
    if key:
        given = next((item.split("=", 1)[1] for item in arguments if item.lstrip("+").split("=", 1)[0] == key and "=" in item), None)
        return ConfigError(where + _wrong_value(error, text, key, given))
    plain = [item for before, item in zip(["", *arguments], arguments, strict=False) if before not in WITH_VALUE and not item.startswith(("-", "~"))]
    odd = next((item for item in plain if not re.match(r"^\+{0,2}[A-Za-z_][\w./@]*=", item)), None)
    group = re.search(r"Config group override must be a string", text) and next((item for item in arguments if "." not in item.split("=")[0]), None)
    if group and not odd:
        return ConfigError(_unknown_choice(*group.lstrip("+").split("=", 1)))
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ConfigError(f"{odd}: is not of the form key=value ({said})" if odd else said)


def explain_file(error: Exception, path: str, known: Sequence[str]) -> ConfigError:
    """`error`, raised while the YAML at `path` was read, as one that names file, key and fix; `known` are the keys it may have."""
    if isinstance(error, YAMLError):
        mark = getattr(error, "problem_mark", None)
        return ConfigError(f"{path}{f':{mark.line + 1}' if mark else ''}: is not YAML ({getattr(error, 'problem', None) or error})")
    text = " ".join(str(link) for link in _chain(error))
    key = _key(text) or "?"
    if "not in '" in text:
        return ConfigError(f"{path}: unknown key {key!r}{nearest(key, known)}")
    return ConfigError(f"{path}: {_wrong_value(error, text, key, None)}")


def wrong_value(error: Exception, key: str, given: str) -> str:
    """KEY=VALUE, and what would be right: for `error`, raised by OmegaConf while `key` was set to `given`."""
    text = " ".join(str(link) for link in _chain(error))
    item = re.search(r"\[\d+\]$", _key(text) or "")  # of a list
    return _wrong_value(error, text, f"{key}{item[0]}", None) if item else _wrong_value(error, text, key, given)


def _key(text: str) -> str | None:
    found = re.search(r"full_key: (\S+)", text)
    return found[1] if found else None


def _wrong_value(error: Exception, text: str, key: str, given: str | None) -> str:
    """KEY=VALUE, and what would be right; `given` is the value, where a command line has it."""
    from omegaconf.errors import OmegaConfBaseException

    said_by = next((link for link in _chain(error) if isinstance(link, OmegaConfBaseException)), error)
    stated = re.search(r"Value '(.*?)' of type", text)
    given = given or (stated[1] if stated else None)
    expected = _expected(text, key, given) or str(said_by).splitlines()[0]
    return f"{key}={given}: {expected}" if given is not None else f"{key}: {expected}"


def _option(text: str, arguments: Sequence[str]) -> str | None:
    """What is wrong with --config-dir or --config-name."""
    if found := re.search(r"[Cc]onfig directory '([^']+)' not found", text):
        return f"{_given(arguments, '--config-dir', '-cd') or found[1]}: there is no such directory"
    if found := re.search(r"Cannot find primary config '([^']+)'", text):
        directory = _given(arguments, "--config-dir", "-cd")
        place = f"here or in {directory.split(maxsplit=1)[1]}" if directory else "here; --config-dir DIR adds a directory of your own"
        return f"{_given(arguments, '--config-name', '-cn') or found[1]}: there is no {found[1]}.yaml {place}"
    return None


def _given(arguments: Sequence[str], long: str, short: str) -> str | None:
    """The option `long` among `arguments`, with its value, as "--option value"."""
    found = re.search(rf"(?:^|\n)(?:{long}|{short})[=\n](.+)", "\n".join(arguments))
    return f"{long} {found[1]}" if found else None


def _expected(text: str, key: str, given: str | None) -> str | None:
    """What OmegaConf wanted instead, in words."""
    if "is not a ListConfig, list or tuple" in text:
        return f"must be a list, which is written {key}=[{'...' if given is None else given}]"
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

    from trainer.config import config_dir
    from trainer.validate import known_keys

    every = set.union(*groups())
    choices = [item for item in arguments if re.fullmatch(rf"\+*({'|'.join(every)})=[\w/.-]+", item)]
    if own := _given(arguments, "--config-dir", "-cd"):
        choices.append(f"hydra.searchpath=['file://{Path(own.split(maxsplit=1)[1]).resolve()}']")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        try:
            composed = compose("config", choices)
        except Exception:  # what is to be explained may be in one of them
            composed = compose("config")
        return sorted({*known_keys(composed), *every})
