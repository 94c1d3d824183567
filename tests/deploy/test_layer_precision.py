"""One layer at another precision: what the layer computes then, and that the rest is untouched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.errors import InputError
from holdfast.deploy.emulate_int8 import fake_quantise, fake_quantise_weight
from holdfast.deploy.layer_precision import cast, input_ranges, quantise
from holdfast.surgery.owned import owned_layers


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2), nn.Flatten(), nn.LayerNorm(98), nn.Linear(98, 5)
    ).eval()


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_only_the_cast_layer_rounds(model: nn.Module, precision: str, dtype: torch.dtype) -> None:
    hidden = model[:5](X)
    change = cast(model, owned_layers(model)["5"], precision)
    assert (change.kind, change.layer, change.modules) == (precision, "5", {"5"})

    def rounded(value: Tensor) -> Tensor:
        return value.to(dtype).float()

    expected = rounded(nn.functional.linear(rounded(hidden), rounded(model[5].weight), rounded(model[5].bias)))
    plain = model(X)
    with change.entered():
        assert torch.equal(model[:5](X), hidden)
        torch.testing.assert_close(model(X), expected, rtol=0, atol=0)
    assert torch.equal(model(X), plain)
    assert not torch.equal(plain, expected)


@torch.no_grad()
def test_tf32_rounds_operands_only(model: nn.Module) -> None:
    plain = model(X)
    with cast(model, owned_layers(model)["0"], "tf32").entered():
        changed = model(X)
    assert 0 < float((changed - plain).abs().max()) < 1e-2


@torch.no_grad()
def test_only_the_quantised_layer_lies_on_grids(model: nn.Module) -> None:
    ranges = input_ranges(model, model, [X])
    assert set(ranges) == {"0", "2", "5"}
    assert ranges["0"] == (float(X.min()), float(X.max()))
    layers, plain = owned_layers(model), model(X)
    hidden = model[:5](X)
    expected = nn.functional.linear(
        fake_quantise(hidden, *ranges["5"]), fake_quantise_weight(model[5].weight, 0), model[5].bias
    )
    with quantise(model, layers["5"], ranges).entered():
        torch.testing.assert_close(model(X), expected)
    own = model[2].weight.clone()
    with quantise(model, layers["2"], ranges).entered():
        # A transposed convolution has its output channels in the second dimension.
        assert torch.equal(model[2].weight, fake_quantise_weight(own, 1))
        assert not torch.equal(model(X), plain)
    assert torch.equal(model(X), plain)


def test_what_has_no_inputs_or_ranges_is_refused(model: nn.Module) -> None:
    layers = owned_layers(model)
    with pytest.raises(InputError, match="cannot cast to 'int4'"):
        cast(model, layers["0"], "int4")
    with pytest.raises(InputError, match="4 holds no convolution"):
        quantise(model, layers["4"], input_ranges(model, model, [X]))
    bare = nn.Module()
    bare.token = nn.Parameter(torch.ones(1))
    with pytest.raises(InputError, match="is no module with inputs"):
        cast(bare, owned_layers(bare)["(model)"], "fp16")


@torch.no_grad()
def test_everything_is_the_same_bits_also_after_an_error(model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    keys = [sorted(module.__dict__) for module in model.modules()]
    ranges = input_ranges(model, model, [X])
    layer = owned_layers(model)["0"]
    for change in (cast(model, layer, "fp16"), quantise(model, layer, ranges)):
        with pytest.raises(RuntimeError, match="stop"), change.entered():
            raise RuntimeError("stop")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [sorted(module.__dict__) for module in model.modules()] == keys
    assert not any(module._forward_pre_hooks for module in model.modules())
