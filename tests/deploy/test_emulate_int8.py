from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.errors import BackendError
from holdfast.deploy.backends.emulated import Emulated
from holdfast.deploy.emulate_int8 import Quantising, fake_quantise, fake_quantise_weight, observe
from holdfast.deploy.export import export_onnx
from holdfast.deploy.fold import agreement_db, fold_batchnorm
from holdfast.deploy.ort import open_session, run_session
from holdfast.deploy.quantise import Quantiser, quantise

_numbers = st.floats(-100, 100, width=32)


@given(st.lists(_numbers, min_size=1, max_size=30), _numbers, _numbers)
def test_activations_lie_on_a_grid_that_holds_zero(values: list[float], a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    y = fake_quantise(torch.tensor([*values, 0.0]), low, high)
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255 if high - low > 255 * torch.finfo(torch.float32).tiny else 1.0
    assert y[-1] == 0
    inside = torch.tensor([low <= value <= high for value in [*values, 0.0]])
    error = (y - torch.tensor([*values, 0.0])).abs()
    assert (error[inside] <= step * 1.001).all()  # half a step, and the zero point is rounded too
    assert len(y.div(step).round().unique()) <= 256


def test_values_out_of_range_saturate() -> None:
    y = fake_quantise(torch.tensor([-5.0, 5.0]), -1.0, 1.0)
    assert y.abs().max() < 1.01
    assert fake_quantise(torch.tensor([3.0]), 0.0, 0.0).item() == 3.0  # a range of nothing was never calibrated


def test_each_channel_has_its_own_scale() -> None:
    weight = torch.tensor([[0.001, -0.0005], [100.0, 37.0], [0.0, 0.0]])
    per_channel, per_tensor = fake_quantise_weight(weight, 0), fake_quantise_weight(weight, None)
    torch.testing.assert_close(per_channel, weight, rtol=0.01, atol=0)
    assert per_tensor[0].abs().max() == 0
    torch.testing.assert_close(fake_quantise_weight(weight.T, 1).T, per_channel)


class _Mixed(nn.Module):
    """Convolution, transposed convolution, a linear layer, a product of activations, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 3)
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.linear(self.up(self.conv(x).relu()).flatten(2).transpose(1, 2))
        scores = tokens @ tokens.transpose(1, 2) / 100
        heads = tokens[:, None]
        mixed = nn.functional.scaled_dot_product_attention(heads, heads, heads)
        return scores.mean(dim=2, keepdim=True) + mixed[:, 0]


def test_every_kind_of_product_is_seen_and_quantised(images) -> None:
    torch.manual_seed(0)
    model = _Mixed().eval()
    ranges = observe(model, [(images,)])
    assert ranges.operations == 5
    # One activation each for both convolutions and the linear layer, two for the product, three for attention.
    assert len(ranges.low) == 8
    with torch.no_grad():
        exact = model(images)
        agreement = {}
        for per_channel in (True, False):
            mode = Quantising(model, ranges, per_channel=per_channel)
            for _ in range(2):
                mode.restart()
                with mode:
                    outputs = model(images)
            agreement[per_channel] = agreement_db([exact], [outputs])
    assert 30 < agreement[False] != agreement[True] > 30
    assert max(agreement.values()) < 70


def test_the_weights_of_the_model_stay(images) -> None:
    torch.manual_seed(0)
    model = _Mixed().eval()
    before = [parameter.clone() for parameter in model.parameters()]
    backend = Emulated()
    artefact = backend.prepare(model, (images[:2],), PrecisionPlan(default="int8"), [(images,)], None)
    backend.load(artefact)(images)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert artefact.notes[-1] == "int8 operands, per channel, minmax ranges"


def test_it_is_about_as_far_off_as_the_quantised_graph(conv_net, images, graphs) -> None:
    """The graph as it stands: in integers, 8-bit products saturate on processors without VNNI."""
    model = conv_net(0)
    exact = [model(images)["scores"].detach()]
    backend = Emulated()
    artefact = backend.prepare(model, (images[:2],), PrecisionPlan(default="int8"), [(images,)], graphs)
    emulated = [backend.load(artefact)(images)["scores"]]
    graph = export_onnx(model, (images[:2],), graphs).path
    settings = Quantiser(reduce_range=False, scope="weighted")
    quantised = quantise(graph, [(images,)], settings, (), graphs)
    real = run_session(open_session(quantised, threads=1, optimise=False), (images,))[:1]
    assert agreement_db(exact, emulated) == pytest.approx(agreement_db(exact, real), abs=6)


def test_calibration_is_needed_and_control_flow_must_be_static(conv_net, images) -> None:
    plan = PrecisionPlan(default="int8")
    with pytest.raises(BackendError, match="needs calibration"):
        Emulated().prepare(conv_net(0), (images[:2],), plan, None, None)

    class Branching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(super().forward(x) if float(x.sum()) > 0 else x)

    model = Branching(3, 3).eval()
    up, down = torch.ones(2, 3), -torch.ones(2, 3)
    with pytest.raises(BackendError, match="control flow depends on values"):
        observe(model, [(up,), (down,)])
    mode = Quantising(model, observe(model, [(down,)]))
    with pytest.raises(BackendError, match="differs from calibration"), torch.no_grad(), mode:
        model(up)


def test_folded_weights_are_what_is_quantised(conv_net, images) -> None:
    model = conv_net(0)
    folded, _ = fold_batchnorm(model, (images[:2],))
    backend, plan = Emulated(), PrecisionPlan(default="int8")
    both = [backend.load(backend.prepare(m, (images[:2],), plan, [(images,)], None))(images) for m in (model, folded)]
    assert torch.equal(both[0]["scores"], both[1]["scores"])
