"""The least that an application of Hydra does."""

import hydra
from omegaconf import DictConfig


@hydra.main(config_path=None, version_base="1.3")
def main(_: DictConfig) -> None:
    pass


if __name__ == "__main__":
    main()
