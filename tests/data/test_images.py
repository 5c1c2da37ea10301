import numpy as np
import pytest
from PIL import Image

from trainer.data.images import Images
from trainer.errors import ConfigError


def opened(split="train", **knobs):
    data = Images(**knobs)
    data.validate()
    return data.open(split)


@pytest.fixture
def folder(tmp_path):
    """Two classes of 4 x 6 images: dark ones as PNG, bright ones as JPEG."""
    for name, suffix, grey in (("dark", "png", 10), ("light", "jpg", 250)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (6, 4), (grey + i % 5, grey, grey)).save(tmp_path / "set" / name / f"{i:02d}.{suffix}")
    return tmp_path / "set"


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    train, evaluation = opened(), opened("eval")
    assert len(train) + len(evaluation) == 1797
    assert 300 < len(evaluation) < 420
    assert train.spec == {"channels": 1, "height": 8, "width": 8, "classes": 10}
    digits = load_digits()
    expected = {(image.tobytes(), label) for image, label in zip((digits.images / 16).astype(np.float32), digits.target, strict=True)}
    for samples in (train, evaluation):
        batch = samples.batch(range(len(samples)))
        assert batch["images"].dtype.is_floating_point
        assert float(batch["images"].max()) == 1
        assert {(i[0].numpy().tobytes(), int(j)) for i, j in zip(batch["images"], batch["labels"], strict=True)} <= expected


def test_digits_are_read_from_the_cache_the_second_time(monkeypatch):
    fingerprint = opened().fingerprint
    monkeypatch.setattr("trainer.data.decoding.write_digits", None)
    assert opened().fingerprint == fingerprint != opened("eval").fingerprint


def test_folder_of_class_folders(folder):
    train, evaluation = opened(path=str(folder)), opened("eval", path=str(folder))
    assert len(train) + len(evaluation) == 40
    assert len(evaluation) > 0
    assert train.spec == {"channels": 3, "height": 4, "width": 6, "classes": 2}
    assert train.describe()["class_names"] == ["dark", "light"]
    batch = train.batch(range(len(train)))
    assert batch["images"].shape == (len(train), 3, 4, 6)
    assert ((batch["images"].mean(dim=(1, 2, 3)) > 0.5).long() == batch["labels"]).all()
    assert float(train[0]["images"][1, 0, 0]) == np.float32(10) * np.float32(1 / 255)
    sample, again = train[5], {key: value[0].numpy() for key, value in train.batch([5]).items()}
    np.testing.assert_array_equal(sample["images"], again["images"])


def test_grey_and_resized(folder):
    samples = opened(path=str(folder), channels=1, resize=(2, 3))
    assert samples.spec == {"channels": 1, "height": 2, "width": 3, "classes": 2}
    assert samples[0]["images"].shape == (1, 2, 3)


def test_images_of_two_sizes(folder):
    odd = folder / "dark" / "07.png"
    Image.new("RGB", (5, 5)).save(odd)
    with pytest.raises(ConfigError) as caught:
        opened(path=str(folder))
    first = folder / "dark" / "00.png"
    assert str(caught.value) == f"{odd}: is 5 x 5, and {first} 4 x 6; set data.resize=[height,width] for images of different sizes"


def test_a_broken_image_is_named_and_nothing_is_kept(folder, cache):
    odd = folder / "light" / "03.jpg"
    odd.write_bytes(odd.read_bytes()[:200])
    with pytest.raises(ConfigError, match=f"^{odd}: cannot be read as an image: "):
        opened(path=str(folder))
    assert [entry.suffix for entry in (cache / "images").iterdir()] == [".lock"]


def test_folders_that_cannot_be_used(tmp_path, folder):
    for make, path, message in (
        (False, tmp_path / "none", "data.path={}: there is no such directory"),
        (True, tmp_path / "flat", "data.path={}: has no folder; each class is a folder of images"),
    ):
        if make:
            path.mkdir()
        with pytest.raises(ConfigError) as caught:
            opened(path=str(path))
        assert str(caught.value) == message.format(path)
    (folder / "medium").mkdir()
    with pytest.raises(ConfigError) as caught:
        opened(path=str(folder))
    assert str(caught.value) == f"data.path={folder}: the class folder 'medium' has no .png, .jpg, .jpeg file"


ERRORS = [
    ({"eval_fraction": 0.0}, "data.eval_fraction=0.0: must be above 0 and below 1"),
    ({"path": "x", "channels": 2}, "data.channels=2: must be 1 (grey) or 3 (colour)"),
    ({"path": "x", "resize": (0, 3)}, "data.resize=[0, 3]: must be a height and a width of at least 1"),
    ({"path": "x", "resize": (3,)}, "data.resize=[3]: must be a height and a width of at least 1"),
    ({"channels": 1}, "data.channels, data.resize: belong to data.path, which is not given (the digits are 1 x 8 x 8)"),
]


@pytest.mark.parametrize(("knobs", "message"), ERRORS)
def test_impossible_knobs(knobs, message):
    with pytest.raises(ConfigError) as caught:
        Images(**knobs).validate()
    assert str(caught.value) == message
