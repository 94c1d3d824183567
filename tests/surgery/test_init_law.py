from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_tasks import ConvNet, classification, images, model_of

from holdfast.core.errors import InputError, NoEffectError
from holdfast.surgery.init_law import InitLaw

X = torch.rand(64, 64)


def net(width=256):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def drawn(law, seed=0, model=None, **options):
    model = model or net()
    torch.manual_seed(seed)
    return InitLaw(law=law, **options).apply(model, (X,))


@pytest.mark.parametrize(("law", "variance"), [("he", 2 / 256), ("xavier", 2 / 512), ("default", 1 / (3 * 256))])
def test_the_variance_of_each_law(law, variance):
    layer = drawn(law)[2]
    assert layer.weight.var().item() == pytest.approx(variance, rel=0.03)
    assert abs(layer.weight.mean().item()) < 1e-3
    assert (layer.bias.abs().max() == 0) == (law != "default")


def test_orthogonal_rows():
    weight = drawn("orthogonal")[2].weight
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(256), atol=1e-4, rtol=0)


@pytest.mark.parametrize("law", ["orthogonal", "lsuv"])
def test_the_layout_of_a_weight_changes_nothing(law):
    def convolutions(layout):
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(memory_format=layout)

    example = (torch.rand(16, 3, 9, 9),)
    made = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(5)
        made.append(InitLaw(law=law).apply(convolutions(layout), example))
    torch.testing.assert_close(made[0][0].weight, made[1][0].weight)
    torch.testing.assert_close(made[0][2].weight, made[1][2].weight)


def test_lsuv_gives_every_layer_unit_variance_on_the_example():
    model = drawn("lsuv")
    x = X
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            assert x.std().item() == pytest.approx(1.0, rel=1e-3)


def test_he_keeps_signals_and_pytorchs_default_lets_them_shrink():
    deep = nn.Sequential(*[m for _ in range(8) for m in (nn.Linear(256, 256), nn.ReLU())], nn.Linear(256, 256))
    x = torch.randn(64, 256)
    size = {}
    for law in ("he", "default"):
        torch.manual_seed(0)
        size[law] = InitLaw(law=law).apply(deep, (x,))(x).std().item()
    assert 0.5 < size["he"] < 3
    assert size["default"] < size["he"] / 20  # biases keep it from 2.45^8


def test_gain_skip_and_seed():
    plain, twice = drawn("he", seed=3), drawn("he", seed=3, gain=2.0)
    torch.testing.assert_close(2 * plain[0].weight, twice[0].weight)
    model = net()
    before = model[4].weight.clone()
    drawn("he", model=model, skip=("4",))
    assert torch.equal(model[4].weight, before)
    assert not torch.equal(drawn("he", seed=3)[0].weight, drawn("he", seed=4)[0].weight)


def test_tied_weights_are_drawn_once_and_convolutions_count():
    model = net()
    model[4] = nn.Linear(256, 256, bias=False)
    model[4].weight = model[2].weight
    weight = drawn("lsuv", model=model)[2].weight
    assert model[4].weight is weight
    conv = model_of(classification())
    before = conv.features[0].weight.clone()
    InitLaw(law="xavier").apply(conv, (images()["image"],))
    assert not torch.equal(conv.features[0].weight, before)


def test_refusals():
    with pytest.raises(NoEffectError, match="no convolution or linear layer"):
        InitLaw().apply(nn.Sequential(nn.ReLU()), (X,))
    with pytest.raises(InputError, match="did you mean 'head'"):
        InitLaw(skip=("heads",)).apply(ConvNet(), (images()["image"],))
    with pytest.raises(NoEffectError, match="is constant on the example"):
        InitLaw(law="lsuv").apply(net(), (torch.zeros(4, 64),))
    with pytest.raises(InputError, match="positive gain"):
        InitLaw(gain=0)
    with pytest.raises(InputError, match="use one of"):
        InitLaw(law="kaiming")
