"""python -m trainer [+strategy=NAME] [key=value ...]: train, then evaluate, save and report."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from trainer.cli import main


def train(config) -> None:
    """Launch the workers that `config` asks for, unless the run is over."""
    from trainer.checkpoint.directory import find, finished
    from trainer.config import goes_on, training_alone
    from trainer.posttrain.run import check, posttrain

    if goes_on(config):
        check(config)
    if told := finished(config):
        if os.environ.get("LOCAL_RANK", "0") == "0":  # under torchrun every process finds it so
            print(told)
    else:
        find(Path(config.run_dir), config.checkpoint.resume)  # what is wrong with it is said before any process starts
        config.launcher.launch(training_alone(config))
    if goes_on(config):
        posttrain(config)


def script() -> int:
    """Entry point; returns the exit status."""
    return main(train, help_text="Train a model under any distributed strategy.")


if __name__ == "__main__":
    sys.exit(script())
