"""Options of a command that trains in its own way, `prove.steps=3`, beside the run's overrides. Nothing here imports torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trainer import cli
from trainer.errors import ConfigError
from trainer.errors_config import wrong_value

if TYPE_CHECKING:
    from trainer.config import Config

T = TypeVar("T")


def run(
    arguments: Sequence[str],
    command: str,
    help_text: str,
    one_config: str,
    split: Callable[[Sequence[str]], tuple[T, list[str]]],
    work: Callable[[Config, T], None],
) -> int:
    """A command of this kind: `work(config, options)`; returns the exit status.

    `one_config` says why it takes no --multirun. `split` gives the options and the run's overrides, or raises ConfigError.
    """
    whole_name = f"python -m trainer.{command}"
    if any(argument in ("-h", "--help") for argument in arguments):
        return cli.main(lambda config: None, ["--help"], command=whole_name, help_text=help_text)
    try:
        if any(argument in ("-m", "--multirun") for argument in arguments):
            raise ConfigError(f"--multirun: {one_config}")
        options, rest = split(arguments)
    except ConfigError as error:
        return cli.report(error)
    return cli.main(lambda config: work(config, options), rest, command=whole_name)


def split(arguments: Sequence[str], command: str, kind: type[T], bare: Sequence[str] = ()) -> tuple[T, list[str]]:
    """The options `COMMAND.key=value` among `arguments` as the dataclass `kind`, and the rest. Those in `bare` may leave the prefix out.

    Raises:
        ConfigError: an unknown key or a value of the wrong type.
    """
    prefix = "|".join([rf"{command}\.", *(rf"(?={key}=)" for key in bare)])
    texts: dict[str, str] = {}
    rest = []
    for argument in arguments:
        match = re.match(rf"^\+{{0,2}}(?:{prefix})([^=]*)=(.*)$", argument, re.DOTALL)
        if match is None:
            rest.append(argument)
        else:
            texts[match[1]] = match[2]
    return _read(texts, command, kind), rest


def _read(texts: dict[str, str], command: str, kind: type[T]) -> T:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    node: Any = OmegaConf.structured(kind)
    for key, text in texts.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise ConfigError(f"unknown key '{command}.{key}'" + (f"; did you mean '{command}.{close[0]}'?" if close else f" (known: {', '.join(known)})"))
        try:
            override = OverridesParser.create().parse_override(f"{key}={text}")
            if override.is_sweep_override():
                raise ConfigError(f"{command}.{key}={text}: one value, please; a list is written [a,b]")
            OmegaConf.update(node, key, override.value(), merge=False)
        except (OverrideParseException, OmegaConfBaseException) as error:
            raise ConfigError(wrong_value(error, f"{command}.{key}", text)) from error
    options = OmegaConf.to_object(node)
    assert isinstance(options, kind)
    return options


def directory(config: Config, command: str) -> Path:
    """Where the command writes: `run_dir`, or runs/COMMAND-NAME where none was given."""
    from trainer.config import default_name

    assert config.run_dir is not None
    name = default_name(config)
    return Path("runs") / f"{command}-{name}" if config.run_dir == str(Path("runs") / name) else Path(config.run_dir)
