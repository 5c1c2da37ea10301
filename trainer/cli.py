"""From a command line to `Config` objects, or to one error that says what would be right.

Hydra composes. What it does not do is done here: `strategy=x` and `+strategy=x` both work, an
unknown key is answered with the nearest known one, and every mistake ends with exit status 2.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from trainer.errors import EXIT_FAILED, EXIT_RESUMABLE, EXIT_USAGE, ConfigError, Interrupted, RunError, Stopped

FULL_ERROR = "HYDRA_FULL_ERROR"
PATIENCE_SECONDS = 10.0
CHOICE = re.compile(r"^(\+{0,2})([A-Za-z_]\w*)(@[\w.]+)?=")
"""[+]GROUP[@PACKAGE]=, or a key that has no dot."""
WITH_VALUE = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--cfg", "-c", "--package", "-p", "--experimental-rerun")


def groups() -> tuple[set[str], set[str]]:
    """(groups that the default config selects, groups that it leaves out)."""
    from trainer.config import config_dir

    every = {entry.name for entry in config_dir().iterdir() if entry.is_dir()} - {"hydra"}
    text = (config_dir() / "config.yaml").read_text(encoding="utf-8")
    selected = {name for name in every if re.search(rf"^ *- {name}:", text, re.MULTILINE)}
    return selected, every - selected


def normalise(arguments: Sequence[str], chosen: bool = False) -> list[str]:
    """Make `x=` and `+x=` both work for every config group x, as Hydra wants each, and options anywhere among them."""
    selected, optional = groups()
    if chosen:  # a base without a list of defaults: nothing is selected there
        selected, optional = set(), selected | optional
    result, options = [], []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument.startswith("-") or before in WITH_VALUE:
            options.append(argument)
            continue
        match = CHOICE.match(argument)
        name = match[2] if match else None
        if match and name in optional:
            argument = "+" + argument[len(match[1]) :]
        elif match and name in selected:
            argument = argument[len(match[1]) :]
        result.append(argument)
    return result + options


def chosen_keys(arguments: Sequence[str]) -> list[str]:
    """Full keys of what the group choices among `arguments` (as `normalise` gives them) put there."""
    every = set.union(*groups())
    matches = [match for argument in arguments if (match := CHOICE.match(argument)) and match[2] in every]
    return [match[3].removeprefix("@") if match[3] else match[2] for match in matches]


def main(
    task: Callable[[Any], None],
    arguments: Sequence[str] | None = None,
    *,
    command: str = "python -m trainer",
    help_text: str = "",
    base: Path | None = None,
    one_run_dir: bool = False,
) -> int:
    """Compose the config of `arguments` and run `task(config)`; returns the exit status.

    With `-m`/`--multirun`, once for each combination, each in its own run directory. `base`: the config.yaml of a run
    directory, which the arguments change instead of the defaults. `one_run_dir`: what is swept over is done to one run.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if any(argument in ("-h", "--help") for argument in arguments):
        print(_help(command, help_text))
        return 0
    try:
        return _run(task, normalise(arguments, chosen=base is not None), command, base, one_run_dir)
    except Exception as error:
        if _wants_traceback():
            raise
        return report(error, patience=PATIENCE_SECONDS)


def run_dir_in_sweep(run_dir: str, arguments: Sequence[str]) -> str:
    """A directory of its own for each run of a sweep that was given one `run_dir` for all: RUN_DIR/KEY=VALUE,..."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.types import RunMode

    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return run_dir
    given = OverridesParser.create().parse_overrides([item for item in arguments if not item.startswith("-") and "=" in item])
    swept = {override.key_or_group for override in given if override.is_sweep_override()}
    if "run_dir" in swept:
        return run_dir
    chosen = [override.lstrip("+") for override in HydraConfig.get().overrides.task]
    return os.path.join(run_dir, ",".join(item for item in chosen if item.split("=")[0] in swept).replace("/", "_"))


def report(error: BaseException, patience: float = 0.0) -> int:
    """Print `error` for a person and return its exit status; re-raise what is not meant for one.

    Under torchrun, where every process finds the same mistake, local rank 0 prints it. As torchrun ends all
    when one has ended, the others wait for that `patience` seconds, then print what they alone have found.
    """
    local_rank = os.environ.get("LOCAL_RANK", "0")
    for kind, status, prefix in [(ConfigError, EXIT_USAGE, "error"), (RunError, EXIT_FAILED, "run failed"), (Stopped, EXIT_RESUMABLE, "stopped, resumable")]:
        if isinstance(error, kind):
            if local_rank != "0":
                time.sleep(patience)
            if local_rank == "0" or patience:
                print(f"{prefix}: {error}", file=sys.stderr)
            return status
    raise error


def _wants_traceback() -> bool:
    return os.environ.get(FULL_ERROR, "") == "1"


def _run(task: Callable[[Any], None], arguments: list[str], command: str, base: Path | None, one_run_dir: bool) -> int:
    import hydra
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins

    from trainer.config import config_dir, to_config
    from trainer.errors_config import explain

    Plugins.instance()  # fills the registry, whose sources are then replaced by ones that know parts
    replaced = [] if base is None else chosen_keys(arguments)  # a part that is chosen does not inherit from another one's knobs
    sources = (FileConfigSource, ImportlibResourcesConfigSource)
    SourcesRegistry.instance().types.update({source.scheme(): _with_parts(source, base, replaced) for source in sources})
    raised: list[Exception] = []

    def run_task(node: DictConfig) -> None:
        if raised and isinstance(raised[-1], (Stopped, Interrupted)):
            return  # asked to stop, or interrupted twice: the rest of a sweep is not started
        try:
            try:
                config = to_config(node)
            except Exception as error:
                raise error if old_full == "1" else explain(error, arguments) from None
            if node.run_dir is not None and not one_run_dir:
                config.run_dir = run_dir_in_sweep(node.run_dir, arguments)
            task(config)
        except Exception as error:  # kept from Hydra, which would print its own lines; the rest of a sweep goes on
            if raised:
                report(raised.pop())
            raised.append(error)

    old_argv, old_full = sys.argv, os.environ.get(FULL_ERROR)
    if base is not None:  # its defaults list has been resolved
        arguments = [*_quiet(), *arguments, f"--config-dir={config_dir()}"]  # options stay last
    sys.argv, os.environ[FULL_ERROR] = [command, *arguments], "1"  # Hydra then raises, instead of printing and exiting with 1
    try:
        place, name = (config_dir(), "config") if base is None else (base.resolve().parent, base.stem)
        hydra.main(config_path=str(place), config_name=name, version_base="1.3")(run_task)()
    except Exception as error:
        raised.append(error if old_full == "1" else explain(error, arguments))
    finally:
        sys.argv = old_argv
        if old_full is None:
            os.environ.pop(FULL_ERROR, None)
        else:
            os.environ[FULL_ERROR] = old_full
    if raised:
        raise raised[-1]
    return 0


def _quiet() -> list[str]:
    """As overrides, what `- hydra: quiet` is in a list of defaults."""
    import yaml

    from trainer.config import config_dir

    plain = yaml.safe_load((config_dir() / "hydra" / "quiet.yaml").read_text(encoding="utf-8"))
    pairs = [(f"{key}.{inner}", value) for key, values in plain.items() if isinstance(values, dict) for inner, value in values.items()]
    pairs += [(key, value) for key, value in plain.items() if not isinstance(value, dict)]
    return ["hydra/job_logging=none", "hydra/hydra_logging=none", *(f"hydra.{key}={'null' if value is None else value}" for key, value in pairs)]


def _with_parts(source: type, base: Path | None, without: Sequence[str]) -> type:
    """A config source whose YAMLs are checked against the part that their `_target_` names; the one at `base` has not the keys `without`."""
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from trainer.config import declared_keys, with_schemas
    from trainer.errors_config import explain_file

    class PartSource(source):  # type: ignore[misc, valid-type]
        def load_config(self, config_path: str) -> Any:
            path = os.path.join(self.path, self._normalize_file_name(config_path))
            try:
                result = super().load_config(config_path)
            except YAMLError as error:
                raise explain_file(error, path, []) from error
            if base is not None and Path(path).resolve() == base.resolve():
                _remove(result.config, without)
            defaults = result.config.pop("defaults", None) if isinstance(result.config, DictConfig) else None
            try:
                result.config = with_schemas(result.config)
            except OmegaConfBaseException as error:
                raise explain_file(error, path, declared_keys(result.config)) from error
            if defaults is not None:
                from omegaconf import flag_override

                with flag_override(result.config, "struct", False):
                    result.config["defaults"] = defaults
            return result

    return PartSource


def _remove(node: DictConfig, keys: Sequence[str]) -> None:
    from omegaconf import OmegaConf

    for key in keys:
        section, _, last = key.rpartition(".")
        inside = OmegaConf.select(node, section) if section else node
        if isinstance(inside, DictConfig):
            inside.pop(last, None)


def _help(command: str, help_text: str) -> str:
    from trainer.config import config_dir

    lines = [f"usage: {command} [+strategy=NAME] [key=value ...]", ""]
    if help_text:
        lines += [help_text, ""]
    lines.append("Choices (any of them with or without +):")
    for group in sorted(set.union(*groups())):
        names = sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
        if names:
            lines.append(f"  {group}={'|'.join(names)}")
    lines += [
        "",
        "Keys: `--cfg job` prints every key with its value, e.g. train.max_steps=100 optim.lr=3e-4 run_dir=DIR",
        "Sweeps: -m +strategy=ddp,fsdp,zero2 runs each combination in its own directory",
        "Your own parts: --config-dir DIR adds a directory of YAMLs",
        "Exit status: 0 done, 1 the run failed, 2 the command or config was wrong, 75 stopped and resumable",
    ]
    return "\n".join(lines)
