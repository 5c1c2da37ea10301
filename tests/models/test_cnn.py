"""cnn: samples do not mix, operations are counted, errors."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainer.errors import ConfigError
from trainer.models.cnn import CNN

SPEC = {"channels": 1, "height": 9, "width": 12, "classes": 10}


def test_a_sample_s_output_does_not_depend_on_the_others():
    torch.manual_seed(0)
    module = CNN().build(SPEC)
    x = torch.randn(4, 1, 9, 12)
    torch.testing.assert_close(module(x)[:2], module(torch.cat([x[:2], 5 * x[2:]]))[:2])


def test_flops_are_those_that_torch_counts():
    model = CNN(channels=[8, 16, 24])
    module = model.build(SPEC)
    with FlopCounterMode(display=False) as counter:
        module(torch.randn(1, 1, 9, 12))
    assert model.flops(module, SPEC)[0] == 3 * counter.get_total_flops()


def test_blocks_are_the_stages():
    model = CNN(channels=[8, 16, 24])
    assert len(model.blocks(model.build(SPEC))) == 3


@pytest.mark.parametrize("spec", [{"features": 3}, {"vocab_size": 5, "seq_len": 3}])
def test_data_without_images_is_refused(spec):
    with pytest.raises(ConfigError, match=r"^model=cnn needs images, but the data has .*\. Choose data=images, or another model$"):
        CNN().check(spec)


def test_more_stages_than_an_image_has_halves():
    with pytest.raises(ConfigError) as error:
        CNN(channels=[8] * 5).check({**SPEC, "height": 8})
    assert str(error.value) == "model.channels=[8, 8, 8, 8, 8]: 5 stages halve an image of 8 x 12 away; give at most 4"
    assert CNN(channels=[8] * 4).build({**SPEC, "height": 8})(torch.randn(2, 1, 8, 12)).shape == (2, 10)


@pytest.mark.parametrize("channels", [[], [12], [0]])
def test_channels_that_do_not_divide_into_groups(channels):
    with pytest.raises(ConfigError) as error:
        CNN(channels=channels).validate()
    assert str(error.value) == f"model.channels={channels}: give one or more multiples of 8"
