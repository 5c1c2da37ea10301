import numpy as np
import pytest

from trainer.data.synthetic import Synthetic, SyntheticKind
from trainer.errors import ConfigError

KINDS = [
    ({"kind": SyntheticKind.tokens, "seq_len": 12, "vocab_size": 7}, {"input_ids": (12,), "labels": (12,)}),
    ({"kind": SyntheticKind.tabular, "features": 3, "classes": 4}, {"features": (3,), "labels": ()}),
    ({"kind": SyntheticKind.tabular, "classes": 0}, {"features": (16,), "labels": ()}),
    ({"kind": SyntheticKind.images, "channels": 2, "height": 5, "width": 4}, {"images": (2, 5, 4), "labels": ()}),
]


@pytest.mark.parametrize(("knobs", "shapes"), KINDS)
def test_a_sample_is_a_function_of_seed_split_and_index(knobs, shapes):
    data = Synthetic(samples=20, eval_samples=5, **knobs)
    data.validate()
    samples, again, other = data.open("train"), data.open("train"), Synthetic(samples=20, seed=1, **knobs).open("train")
    assert (len(samples), len(data.open("eval"))) == (20, 5)
    assert {key: array.shape for key, array in samples[0].items()} == shapes
    key = next(iter(shapes))
    np.testing.assert_array_equal(samples[7][key], again[7][key])
    for different in (samples[8], other[7]):
        assert not np.array_equal(samples[7][key], different[key])
    assert not np.array_equal(samples[4][key], data.open("eval")[4][key])
    assert samples.fingerprint == again.fingerprint != other.fingerprint
    with pytest.raises(IndexError):
        samples[20]


def test_uneven_tokens_have_every_length_and_are_padded():
    samples = Synthetic(seq_len=6, uneven=True, samples=100).open("train")
    lengths = [len(samples[i]["labels"]) for i in range(100)]
    assert set(lengths) == {1, 2, 3, 4, 5, 6}
    batch = samples.batch(range(100))
    assert batch["labels"].shape == (100, 6)
    assert int((batch["labels"] != -100).sum()) == sum(lengths)


def test_tokens_can_be_learnt():
    samples = Synthetic(vocab_size=5, seq_len=200, samples=50).open("train")
    pairs = np.zeros((5, 5))
    for i in range(50):
        np.add.at(pairs, (samples[i]["input_ids"], samples[i]["labels"]), 1)
    assert pairs.max(axis=1) / pairs.sum(axis=1) == pytest.approx(0.84, abs=0.03)  # 0.8 kept, 0.2 / 5 by chance


ERRORS = [
    ({"kind": SyntheticKind.images, "seq_len": 64}, "data.seq_len=64: has no effect with data.kind=images"),
    ({"uneven": True, "kind": SyntheticKind.tabular}, "data.uneven=True: has no effect with data.kind=tabular"),
    ({"samples": 0}, "data.samples=0: must be at least 1"),
    ({"kind": SyntheticKind.images, "classes": 0}, "data.classes=0: data.kind=images needs at least 1"),
]


@pytest.mark.parametrize(("knobs", "message"), ERRORS)
def test_impossible_knobs(knobs, message):
    with pytest.raises(ConfigError) as caught:
        Synthetic(**knobs).validate()
    assert str(caught.value) == message
