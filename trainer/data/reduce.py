"""`data.reduce=pca|svd|random_projection`: the knobs of data whose rows can be made shorter, for any data of flat rows or images."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any

from trainer.data.base import Data
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.data.base import Samples


class Reduce(Enum):
    """pca: directions of most variance; svd: the same of rows that are not centred; random_projection: directions that are drawn."""

    pca = "pca"
    svd = "svd"
    random_projection = "random_projection"


@dataclass(kw_only=True)
class Reducible(Data):
    """Data of which `open` gives `components` features in place of all; fitted on the training split alone."""

    reduce: Reduce | None = None
    """How the features become fewer. Null: they stay."""
    components: int | None = None
    """How many are left."""
    variance: float | None = None
    """For pca and svd, in place of `components`: as many as explain this share of the training split's variance."""
    reduce_seed: int = 0
    """Of what random_projection draws."""

    def validate(self) -> None:
        if self.reduce is None:
            for key, value in (("components", self.components), ("variance", self.variance)):
                if value is not None:
                    raise ConfigError(f"data.{key}={value}: has no effect without data.reduce; give data.reduce=pca, svd or random_projection")
        elif self.variance is not None and self.reduce is Reduce.random_projection:
            raise ConfigError(f"data.variance={self.variance}: random_projection does not look at the data; give data.components=N")
        elif (self.components is None) == (self.variance is None):
            either = "data.components=N" if self.reduce is Reduce.random_projection else "one of data.components=N and data.variance=0.95"
            raise ConfigError(f"data.reduce={self.reduce.name}: give {either}")
        if self.components is not None and self.components < 1:
            raise ConfigError(f"data.components={self.components}: must be at least 1")
        if self.variance is not None and not 0 < self.variance < 1:
            raise ConfigError(f"data.variance={self.variance}: must be above 0 and below 1, such as 0.95")
        if self.reduce_seed and self.reduce is not Reduce.random_projection:
            raise ConfigError(f"data.reduce_seed={self.reduce_seed}: has no effect without data.reduce=random_projection")
        if self.reduce_seed < 0:
            raise ConfigError(f"data.reduce_seed={self.reduce_seed}: must be at least 0")

    @abstractmethod
    def open_whole(self, split: str) -> Samples:
        """What `open` gives without `reduce`: every feature."""

    def open(self, split: str) -> Samples:
        if self.reduce is None:
            return self.open_whole(split)
        from trainer.data.reduced import open_reduced

        return open_reduced(self, split)

    def prepare(self, device: Any) -> None:
        if self.reduce is not None:
            from trainer.data.ranks import Together
            from trainer.data.reduced import fit_together

            fit_together(self, Together(device))


REDUCING = {item.name for item in fields(Reducible)}
"""The knobs of a reduction, which decide nothing of what `open_whole` gives."""
