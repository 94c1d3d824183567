from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from toy_tasks import classification, images, model_of

from holdfast.core.errors import ClashError, InputError, NoEffectError
from holdfast.surgery.quantisation_aware import ActivationQuantiser, QuantisationAware, WeightQuantiser
from holdfast.train.objective import Objective
from holdfast.weights.ema import EMA

X = images()["image"]


def test_weights_are_rounded_per_output_channel_and_differentiated_straight_through():
    weight = torch.randn(5, 3, 2, 2, requires_grad=True)
    for bits, channel in ((8, 0), (7, 0), (4, 1)):
        rounded = WeightQuantiser(bits, channel)(weight)
        top = 2 ** (bits - 1) - 1
        for i in range(weight.shape[channel]):
            row, found = weight.detach().select(channel, i), rounded.detach().select(channel, i)
            scale = row.abs().max() / top
            torch.testing.assert_close(found, (row / scale).round() * scale)
        (gradient,) = torch.autograd.grad(rounded.sum(), weight)
        assert torch.equal(gradient, torch.ones_like(weight))


def test_folding_a_batchnorm_commutes_with_rounding():
    weight, factor = torch.randn(6, 3, 3, 3), torch.rand(6).view(6, 1, 1, 1) + 0.1
    quantiser = WeightQuantiser(8)
    torch.testing.assert_close(quantiser(weight * factor), quantiser(weight) * factor)


def test_activations_are_observed_then_rounded_with_an_exact_zero():
    quantiser = ActivationQuantiser(8, momentum=0.5, observe_steps=2).train()
    x = torch.tensor([-1.0, 0.0, 0.5, 3.0])
    for _ in range(2):
        assert torch.equal(quantiser(x), x)
    rounded = quantiser(x)
    scale = 4.0 / 255
    assert rounded[1] == 0
    torch.testing.assert_close(rounded, ((x / scale).round() * scale).clamp(-1 - scale, 3), atol=1e-6, rtol=0)
    quantiser.eval()
    far = quantiser(torch.tensor([10.0, -5.0]))
    assert far.max() <= 3.0 + scale
    assert quantiser.high == 3.0
    quantiser.train()
    quantiser(torch.tensor([5.0]))
    assert quantiser.high == 4.0  # half way from 3 to 5


def test_gradients_stop_where_activations_are_clamped():
    quantiser = ActivationQuantiser(8, momentum=1.0, observe_steps=0).train()
    quantiser(torch.tensor([0.0, 1.0]))
    quantiser.eval()
    x = torch.tensor([0.3, 2.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(quantiser(x).sum(), x)
    assert gradient.tolist() == [1.0, 0.0]


def test_every_convolution_and_linear_layer_takes_part():
    model = QuantisationAware(weight_bits=3, activation_bits=0).apply(model_of(classification()), (X,))
    for layer in (model.features[0], model.head):
        assert len(layer.weight.flatten(1)[0].unique()) <= 7
    assert model(X).shape == (6, 3)


def test_trains_and_strips_to_the_plain_model_with_latent_weights():
    task, batch = classification(), images()
    objective = Objective(task, surgery=(QuantisationAware(observe_steps=1),))
    model = objective.prepare(model_of(task), batch)
    average = EMA(decay=0.5).start(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        optimiser.zero_grad()
        objective.backward(model, batch)
        optimiser.step()
        average.update(model)
    plain = objective.strip(copy.deepcopy(model))
    assert plain.state_dict().keys() == model_of(task).state_dict().keys()
    torch.testing.assert_close(plain.head.weight, model.head.parametrizations.weight.original)
    assert not any(m._forward_pre_hooks for m in plain.modules())
    objective.backward(model, batch)  # stripping a copy leaves the model as it was
    assert not torch.equal(model.head.weight, plain.head.weight)
    model.load_state_dict(average.weights())
    averaged = objective.strip(model)
    assert averaged is model
    assert not torch.equal(averaged.head.weight, plain.head.weight)


def test_training_with_rounding_costs_less_when_rounded():
    torch.manual_seed(0)
    x = torch.randn(256, 12)
    y = (x[:, :3].sum(1, keepdim=True) + torch.sin(3 * x[:, 3:4])).tanh()

    def train(surgery):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
        model = surgery.apply(net, (x,)) if surgery else net
        optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(300):
            optimiser.zero_grad()
            (model.train()(x) - y).pow(2).mean().backward()
            optimiser.step()
        plain = surgery.strip(model) if surgery else model
        coarse = QuantisationAware(weight_bits=3, activation_bits=0).apply(plain, (x,)).eval()
        return (coarse(x) - y).pow(2).mean().item()

    aware = train(QuantisationAware(weight_bits=3, activation_bits=0))
    assert aware < 0.5 * train(None)


def test_refusals():
    with pytest.raises(NoEffectError, match="no convolution or linear layer"):
        QuantisationAware().apply(nn.Sequential(nn.ReLU()), (X,))
    model = model_of(classification())
    parametrizations.weight_norm(model.head)
    with pytest.raises(ClashError, match="'head' is parametrised already"):
        QuantisationAware().apply(model, (X,))
    with pytest.raises(InputError, match="2 to 8 bits"):
        QuantisationAware(weight_bits=16)
    with pytest.raises(InputError, match="momentum 0"):
        QuantisationAware(momentum=0)
