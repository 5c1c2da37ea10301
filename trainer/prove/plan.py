"""Which cells there are: each is the config of the command line under one strategy on some ranks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.config import Config, to_config
from trainer.errors import ConfigError, MissingExtra
from trainer.prove.options import ProveOptions
from trainer.validate import check_batch, nearest

STATUS = ("equal", "different", "inconclusive", "failed", "refused", "not installed")


@dataclass
class Cell:
    """A strategy on some ranks; `config` is None where it cannot run, and `reason` says why."""

    strategy: str
    ranks: int
    config: Config | None
    status: str = ""
    reason: str = ""


@dataclass
class Plan:
    """What to run."""

    reference: Config
    """One process."""
    control: Config
    """One process whose micro-batches are cut differently."""
    cells: list[Cell]


def make(base: Config, options: ProveOptions, device: str) -> Plan:
    """The plan for the running Hydra job, whose config is `base`, on "cpu" or "cuda".

    Raises:
        ConfigError: an unknown strategy, or a batch that does not fit the ranks.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    overrides = list(HydraConfig.get().overrides.task)
    known = list(GlobalHydra.instance().config_loader().get_group_options("strategy"))
    names = known if options.strategies is None else options.strategies
    for name in names:
        if name not in known:
            raise ConfigError(f"prove.strategies: there is no strategy {name!r}{nearest(name, known)}")
    for ranks in options.ranks:
        try:
            check_batch(options.global_batch_size, options.micro_batch_size, ranks)
        except ConfigError as error:
            raise ConfigError(str(error).replace("train.", "prove.")) from None
    common = _common(base, options, device)
    reference = compose(overrides, "single", [*common, "launcher.nproc_per_node=1"])
    whole, micro = options.global_batch_size, options.micro_batch_size
    regrouped = whole if micro < whole else next(size for size in range(whole - 1, 0, -1) if whole % size == 0)
    control = compose(overrides, "single", [*common, "launcher.nproc_per_node=1", f"train.micro_batch_size={regrouped}"])
    cells = [_cell(overrides, name, ranks, common) for name in names for ranks in options.ranks]
    if options.strategies is None:  # a strategy that runs on some of the numbers of ranks need not say that it does not on others
        able = {cell.strategy for cell in cells if cell.config is not None}
        cells = [cell for cell in cells if cell.config is not None or cell.strategy not in able]
    return Plan(reference, control, _one_row_where_alike(cells))


def _common(base: Config, options: ProveOptions, device: str) -> list[str]:
    warmup = math.ceil(base.optim.warmup_steps * options.steps / base.train.max_steps)
    return [
        f"train.max_steps={options.steps}",
        "train.stop_at=null",
        "run.min_ranks=null",  # of the run's own number of processes; here there are others
        f"train.global_batch_size={options.global_batch_size}",
        f"train.micro_batch_size={options.micro_batch_size}",
        f"train.device={device}",
        f"optim.warmup_steps={min(warmup, options.steps)}",
        "profile.steps=[]",
    ]


def _cell(overrides: Sequence[str], name: str, ranks: int, common: list[str]) -> Cell:
    try:
        config = compose(overrides, name, [*common, f"launcher.nproc_per_node={ranks}"])
    except MissingExtra as error:
        return Cell(name, ranks, None, "not installed", str(error))
    except ConfigError as error:
        return Cell(name, ranks, None, "refused", str(error))
    if config.launcher.world_size(config) != ranks:
        raise ConfigError("the proof runs on one machine and starts its own processes: leave out launcher.nnodes, and torchrun")
    return Cell(name, ranks, config)


def _one_row_where_alike(cells: list[Cell]) -> list[Cell]:
    """A strategy that is not installed is so on any number of ranks: it is said once."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for cell in cells:
        if cell.config is None:
            if (cell.strategy, cell.reason) in seen:
                continue
            seen.add((cell.strategy, cell.reason))
        kept.append(cell)
    return kept


def compose(overrides: Sequence[str], strategy: str, extra: Sequence[str]) -> Config:
    """The config of `overrides` under `strategy`; the knobs of another strategy among them are left out.

    Raises:
        ConfigError: this strategy cannot do what is asked for.
    """
    import hydra

    kept, chosen = [], None
    for override in overrides:
        if match := re.match(r"^\+{0,2}strategy=(.*)$", override):
            chosen = match[1]
        else:
            kept.append(override)
    if chosen != strategy:
        kept = [override for override in kept if not re.match(r"^[+~]{0,2}strategy\.", override)]
    return to_config(hydra.compose("config", [*kept, f"+strategy={strategy}", *extra]))
