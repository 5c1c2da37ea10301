"""What an assessment needs, asked before anything is trained. Nothing here imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.assess.bars import FOLDS
from trainer.assess.groups import grouped
from trainer.data.tabular import Tabular, Task
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.assess.base import Assess
    from trainer.config import Config
    from trainer.data.base import Samples

NEEDS = "assess: judges a classifier of two classes on a table (data=tabular, data.task=classification), and"


def check(config: Config) -> None:
    """Refuse data, classes and groups that cannot be assessed.

    Raises:
        ConfigError: names the key, what was found, and what would be right.
    """
    part, data = config.assess, config.data
    assert part is not None
    if not isinstance(data, Tabular):
        raise ConfigError(f"{NEEDS} the data is {type(data).__name__}")
    if data.task is not Task.classification:
        raise ConfigError(f"{NEEDS} data.task={data.task.name}; leave assess out, or choose a target of two classes")
    splits = {split: data.open(split) for split in ("train", "eval")}
    names = class_names(splits["train"])
    if len(names) != 2:
        raise ConfigError(f"{NEEDS} data.target={data.target} of {data.path} has {_counted(names)} in the training split")
    default_class(part, splits["train"])
    for (split, samples), least in zip(splits.items(), (FOLDS, 1), strict=True):
        counts = _counts(samples, least)
        if min(counts) < least:
            rare = counts.index(min(counts))
            raise ConfigError(
                f"{NEEDS} of the {len(samples):,} rows of the {split} split of {data.path} {counts[rare]} are of the class {names[rare]!r}, where at least "
                f"{least} are needed; take more rows, or another split"
            )
    columns = part.columns()
    for name, values in data.open_whole("eval").raw(list(columns)).items():
        grouped(name, values, columns[name])


def _counts(samples: Samples, enough: int) -> list[int]:
    """How many samples are of each of the two classes, counted until there are `enough` of both."""
    counts = [0, 0]
    for i in range(len(samples)):
        counts[int(samples[i]["labels"])] += 1
        if min(counts) >= enough:
            break
    return counts


def class_names(samples: Samples) -> list[str]:
    """The two classes, in order."""
    return [str(name) for name in samples.describe()["class_names"]]


def default_class(part: Assess, samples: Samples) -> int:
    """Which class, 0 or 1, means a default.

    Raises:
        ConfigError: `assess.default_class` is neither.
    """
    names = class_names(samples)
    if part.default_class is None:
        return 1
    if part.default_class not in names:
        raise ConfigError(f"assess.default_class={part.default_class}: is not a class of the target; it has {names[0]!r} and {names[1]!r}")
    return names.index(part.default_class)


def _counted(names: list[str]) -> str:
    if len(names) == 1:
        return f"one class ({names[0]!r})"
    return f"{len(names)} classes ({', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''})"
