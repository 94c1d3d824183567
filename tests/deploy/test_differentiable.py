from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.errors import BackendError
from holdfast.deploy import differentiable
from holdfast.deploy.differentiable import Differentiable
from holdfast.deploy.fold import agreement_db
from holdfast.deploy.nest import flatten


class Skips(nn.Module):
    """What image models are made of: strides, groups, pools, a skip, batch normalisation, two outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.SiLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        )
        self.wider = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.LeakyReLU(0.1), nn.MaxPool2d(3, 2, 1))
        self.head = nn.Linear(16, 5)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        y = self.stem(image)
        y = self.wider(torch.relu(y + self.inner(y)))
        return {"logits": self.head(y.mean((2, 3))), "map": torch.nn.functional.interpolate(y, scale_factor=2.0)}


class Reads(nn.Module):
    """A transformer layer over tokens and a mask in floats: only one of the inputs has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.query, self.norm = nn.Linear(16, 16), nn.LayerNorm(16)
        self.grow, self.head = nn.Linear(16, 32), nn.Linear(32, 3)

    def forward(self, tokens: Tensor, weight: Tensor) -> Tensor:
        x = self.embedding(tokens) * weight[:, :, None]
        x = self.norm(x + (self.query(x) @ x.transpose(1, 2) / 4).softmax(-1) @ x)
        return self.head(torch.nn.functional.gelu(self.grow(x)).mean(1))


def example(kind: type[nn.Module], n: int) -> tuple[Tensor, ...]:
    draws = torch.Generator().manual_seed(n)
    if kind is Skips:
        return (torch.rand(n, 3, 24, 20, generator=draws),)
    return torch.randint(0, 11, (n, 6), generator=draws), torch.rand(n, 6, generator=draws)


def settled(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = kind()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def both(run, inputs: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and the gradients of a fixed sum of squares to the float inputs."""
    inputs = tuple(x.clone().requires_grad_(x.is_floating_point()) for x in inputs)
    outputs, _ = flatten(run(*inputs))
    floats = [x for x in inputs if x.requires_grad]
    return [y.detach() for y in outputs], list(torch.autograd.grad(sum(y.square().sum() for y in outputs), floats))


@pytest.mark.parametrize("kind", [Skips, Reads])
def test_outputs_and_gradients_are_the_models_for_any_batch(kind):
    model = settled(kind)
    before = copy.deepcopy(model.state_dict())
    run = Differentiable(model, example(kind, 3))
    for n in (1, 3, 8):
        inputs = example(kind, n)
        assert agreement_db(both(model, inputs)[0], both(run, inputs)[0]) > 90
        assert agreement_db(both(model, inputs)[1], both(run, inputs)[1]) > 90
        with torch.no_grad():
            plain = run(*inputs)
        assert type(plain) is type(model(*inputs))
        assert not any(y.requires_grad for y in flatten(plain)[0])
        assert agreement_db(flatten(model(*inputs))[0], flatten(plain)[0]) > 90
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_one_output_of_two_may_be_asked_alone():
    model, inputs = settled(Skips), example(Skips, 2)
    run = Differentiable(model, inputs)
    gradients = []
    for of in (model, run):
        x = inputs[0].clone().requires_grad_()
        gradients.append(torch.autograd.grad(of(x)["logits"].sum(), x)[0])
    torch.testing.assert_close(gradients[1], gradients[0])


class Ends(nn.Module):
    """Its way back needs its output; a hidden width is the first batch size that is tried."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 11), nn.Tanh(), nn.Linear(11, 3), nn.Softmax(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_an_output_may_be_changed_in_place_before_the_way_back():
    model, x = Ends().eval(), torch.rand(5, 4)
    run = Differentiable(model, (x[:2],))
    gradients = []
    for of in (model, run):
        z = x.clone().requires_grad_()
        y = of(z)
        value = y[:, 0].sum()
        if of is run:
            y.detach().mul_(100)
        gradients.append(torch.autograd.grad(value, z)[0])
    torch.testing.assert_close(gradients[1], gradients[0])


class Alone(nn.Module):
    """Treats a single sample in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * (2.0 if x.shape[0] == 1 else 1.0)


def test_what_cannot_be_the_same_for_every_batch_is_refused():
    with pytest.raises(BackendError):
        Differentiable(Alone().eval(), (torch.rand(3, 4),))
    with pytest.raises(BackendError, match="share no batch dimension"):
        Differentiable(Ends().eval(), (torch.tensor(1.0),))
    run = Differentiable(Ends().eval(), (torch.rand(3, 4),))
    with pytest.raises(BackendError):
        run(torch.rand(3, 5))


class Rotated(nn.Module):
    """A complex FFT has no translation."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.fft.fft2(image).abs().flatten(1)


def test_what_has_no_translation_is_said_in_one_line():
    with pytest.raises(
        BackendError, match=r"the gradient of Rotated has no translation: .*let the eager model"
    ) as caught:
        Differentiable(Rotated(), (torch.rand(2, 1, 8, 8),))
    assert "\n" not in str(caught.value)
    with pytest.raises(BackendError, match="give two samples"):
        Differentiable(settled(Skips), example(Skips, 1))


def test_a_wrong_gradient_is_noticed(monkeypatch):
    rules = differentiable.reverse_rules()
    wrong = {**rules, torch.ops.aten.threshold_backward.default: lambda gradient, result, threshold: gradient}
    monkeypatch.setattr(differentiable, "reverse_rules", lambda: wrong)
    with pytest.raises(BackendError, match="departs from the eager model's"):
        Differentiable(settled(Skips), example(Skips, 2))


def test_a_large_batch_goes_in_parts_that_the_caches_hold(monkeypatch):
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
                              torch.nn.Linear(4 * 64, 3)).eval()  # fmt: skip
    x = torch.randn(11, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = Differentiable(net, (x[:2],))
    monkeypatch.setattr(differentiable, "_IN_CACHE", 8192)
    parts = Differentiable(net, (x[:2],))
    sizes = []
    forward = Differentiable.forward
    monkeypatch.setattr(
        Differentiable, "forward", lambda self, given: (sizes.append(len(given[0])), forward(self, given))[1]
    )
    found = []
    for graph in (whole, parts):
        z = x.clone().requires_grad_()
        outputs = graph(z)
        found.append((outputs.detach(), *torch.autograd.grad(outputs.square().sum(), z)))
    assert sizes[0] == 11
    assert len(sizes) > 2
    assert sum(sizes[1:]) == 11
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert parts(torch.zeros(0, 2, 8, 8, requires_grad=True)).shape == (0, 3)


def test_samples_that_depend_on_each_other_stay_together(monkeypatch):
    class Centred(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(12, 3)

        def forward(self, x):
            y = self.inner(x).tanh()
            return y - y.mean(0, keepdim=True)

    monkeypatch.setattr(differentiable, "_IN_CACHE", 256)
    net = Centred().eval()
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    torch.testing.assert_close(Differentiable(net, (x[:3].detach(),))(x), net(x), atol=1e-5, rtol=1e-4)
