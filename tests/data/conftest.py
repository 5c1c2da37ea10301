import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Each test prepares its data afresh."""
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TRAINER_CACHE", str(place))
    return place
