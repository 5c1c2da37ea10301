"""Binary and ternary layers: as they are trained, packed, and over ranks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.compress.binarize import Activations, Binarize, Kind
from trainer.compress.binarized import UNPACKED, BinarizedConv2d, BinarizedLinear, Packed, PackedConv2d, PackedLinear, binarize, row_sums, trained
from trainer.compress.exact import to_levels

KINDS = [pytest.param(kind, id=kind.name) for kind in Kind]


def layers(kind: Kind, activations: Activations, conv: bool) -> tuple[nn.Module, Packed, Tensor]:
    """(a layer as it is trained, the same packed, inputs)."""
    torch.manual_seed(1)
    if conv:
        plain: nn.Module = nn.Conv2d(5, 6, 3, stride=2, padding=(1, 2), padding_mode="reflect")
        x = torch.randn(4, 5, 9, 8)
    else:
        plain, x = nn.Linear(37, 6), torch.randn(4, 3, 37)
    form = {"kind": kind.name, "activations": activations.name}
    training = (BinarizedConv2d if conv else BinarizedLinear).replacing(plain, **form)
    training.load_state_dict(plain.state_dict())
    packed = (PackedConv2d if conv else PackedLinear).replacing(plain, **form)
    values = pack_alone(plain, kind)
    packed.load_state_dict({**values, "bias": plain.bias})  # type: ignore[dict-item]
    return training, packed, x


class Alone:
    """A subject of some layers, on one rank."""

    def __init__(self, **layers: nn.Module) -> None:
        self.layers = lambda: layers


def pack_alone(plain: nn.Module, kind: Kind) -> dict[str, Tensor]:
    """The packed weight and scale of one layer, by `binarize`."""
    change = binarize(Alone(it=plain), Binarize(kind=kind))  # type: ignore[arg-type]
    return {key: change.values[f"it.{key}"] for key in ("weight", "scale")}


@pytest.mark.parametrize("conv", [False, True], ids=["linear", "conv"])
@pytest.mark.parametrize("activations", [pytest.param(one, id=one.name) for one in Activations])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_layer_computes_what_was_trained(kind: Kind, activations: Activations, conv: bool) -> None:
    training, packed, x = layers(kind, activations, conv)
    torch.testing.assert_close(packed(x), training(x), rtol=1e-5, atol=1e-5)
    assert packed.weight.dtype == torch.uint8


@pytest.mark.parametrize("kind", KINDS)
def test_packed_linear_gives_the_integer_result(kind: Kind) -> None:
    _, packed, x = layers(kind, Activations.int8, False)
    levels, scale = to_levels(x, (-1,))
    sums = levels.to(torch.int64) @ packed.digits().to(torch.int64).t()
    assert packed.bias is not None
    assert packed(x).equal(sums.to(torch.float32) * scale * packed.scale + packed.bias)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_unpacked_a_part_at_a_time_are_all_there(kind: Kind, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    plain = nn.Linear(3001, 400, bias=False)
    packed = PackedLinear.replacing(plain, kind=kind.name, activations="int8")
    packed.load_state_dict(pack_alone(plain, kind))
    assert packed.digits().nbytes > 2 * UNPACKED
    assert packed.meant(dict(packed.named_parameters()))["weight"].equal(packed.digits())
    x = torch.randint(-127, 128, (2, 3001), dtype=torch.int8)
    assert packed.times(x.to(dtype)).to(torch.int64).equal(x.to(torch.int64) @ packed.digits().to(torch.int64).t())


@pytest.mark.parametrize("kind", KINDS)
def test_packed_convolution_gives_the_integer_result(kind: Kind) -> None:
    _, packed, x = layers(kind, Activations.int8, True)
    levels, scale = to_levels(x, (1, 2, 3))
    around = F.pad(levels, (2, 2, 1, 1), mode="reflect").to(torch.float64)
    sums = F.conv2d(around, packed.digits().view(6, 5, 3, 3).to(torch.float64), stride=2)
    assert packed.bias is not None
    assert packed(x).equal(sums.to(torch.float32) * scale * packed.scale.view(-1, 1, 1) + packed.bias.view(-1, 1, 1))


def test_binary_scale_is_the_mean_of_each_row_and_ternary_that_of_the_layer() -> None:
    plain = nn.Linear(4, 2, bias=False)
    plain.weight.data = torch.tensor([[1.0, -2.0, 0.0, 1.0], [-0.25, 0.25, -0.75, 0.75]])
    binary, ternary = (BinarizedLinear.replacing(plain, kind=kind, activations="float") for kind in ("binary", "ternary"))
    for layer in (binary, ternary):
        layer.load_state_dict(plain.state_dict())
    assert binary.effective().tolist() == [[1.0, -1.0, 1.0, 1.0], [-0.5, 0.5, -0.5, 0.5]]
    assert ternary.effective().tolist() == [[0.75, -0.75, 0.0, 0.75], [0.0, 0.0, -0.75, 0.75]]


def test_binary_gradient_goes_through_scale_and_sign_up_to_one() -> None:
    layer = BinarizedLinear(3, 1, bias=False).set_knobs(kind="binary", activations="float")
    layer.weight.data = torch.tensor([[0.5, -2.0, 0.5]])
    layer.effective().backward(torch.tensor([[1.0, 10.0, 100.0]]))
    # Of the scale, 1 = mean |w|: sum of g sign(w) is 91, a third of which comes to each, with its sign; of the sign: g times 1.
    torch.testing.assert_close(layer.weight.grad, torch.tensor([[91 / 3 + 1, -91 / 3, 91 / 3 + 100]]))


def test_ternary_gradient_and_that_of_activations_go_straight_through() -> None:
    layer = BinarizedLinear(3, 1, bias=False).set_knobs(kind="ternary", activations="int8")
    x = torch.tensor([[1.0, 2.0, -0.3]], requires_grad=True)
    layer(x).backward()
    levels, scale = to_levels(x.detach(), (-1,))
    torch.testing.assert_close(layer.weight.grad, levels * scale)
    torch.testing.assert_close(x.grad, layer.effective().detach())


def test_sum_of_a_row_is_the_same_alone_and_among_others() -> None:
    torch.manual_seed(0)
    rows = torch.randn(7, 1001)
    torch.testing.assert_close(row_sums(rows), rows.to(torch.float64).sum(1))
    assert all(row_sums(row.unsqueeze(0)).equal(both) for row, both in zip(rows, row_sums(rows).unsqueeze(1), strict=True))


def test_what_is_trained_is_what_was_chosen() -> None:
    layers = Alone(a=nn.Linear(2, 2), b=nn.Linear(2, 2), c=nn.Conv2d(2, 2, 1))
    change = trained(layers, Binarize(kind=Kind.binary, exclude=["b"]))  # type: ignore[arg-type]
    knobs = {"kind": "binary", "activations": "int8"}
    assert change.forms == {"a": BinarizedLinear.form(**knobs), "c": BinarizedConv2d.form(**knobs)}


@pytest.mark.parametrize("kind", KINDS)
def test_error_and_zeros_are_those_of_the_layer(kind: Kind) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(20, 7)
    layer = BinarizedLinear.replacing(plain, kind=kind.name, activations="float")
    layer.load_state_dict(plain.state_dict())
    told = binarize(Alone(it=plain), Binarize(kind=kind)).told["it"]  # type: ignore[arg-type]
    made = layer.effective().detach()
    assert told["error"] == pytest.approx(float((made - plain.weight.detach()).norm() / plain.weight.detach().norm()), rel=1e-5)
    assert told["zeros"] == int((made == 0).sum()) / 140
