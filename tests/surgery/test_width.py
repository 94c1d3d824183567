from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.core.errors import InputError, NoEffectError
from holdfast.models.small_cnn import SmallCNN
from holdfast.models.unet import UNet
from holdfast.surgery.width import Width


def sizes(model):
    return [p.numel() for p in model.parameters()]


class Residual(nn.Module):
    """Branches that must widen alike, depthwise and grouped convolutions, in-place operations, a norm at each end."""

    def __init__(self, k=1):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.stem = nn.Conv2d(3, 8 * k, 3, padding=1)
        self.one = nn.Sequential(
            nn.Conv2d(8 * k, 8 * k, 3, padding=1, groups=8 * k), nn.GroupNorm(2, 8 * k), nn.PReLU(8 * k)
        )
        self.two = nn.Sequential(nn.Conv2d(8 * k, 8 * k, 1, groups=2), nn.ReLU(inplace=True))
        self.up = nn.ConvTranspose2d(8 * k, 4 * k, 2, stride=2)
        self.out = nn.Conv2d(4 * k, 2, 1)
        self.last = nn.BatchNorm2d(2)

    def forward(self, x):
        y = torch.relu_(self.stem(self.norm(x)))
        y = y + self.one(y)
        return self.last(self.out(self.up(self.two(y))))


def test_widens_what_is_hidden_and_nothing_else():
    x = torch.rand(2, 3, 8, 8)
    model = Width(factor=2).apply(Residual(), (x,))
    assert sizes(model) == sizes(Residual(2))
    assert [m.groups for m in model.modules() if isinstance(m, nn.Conv2d)] == [1, 16, 2, 1]
    assert model(x).shape == (2, 2, 16, 16)
    assert sizes(Width(factor=0.5).apply(Residual(2), (x,))) == sizes(Residual())


@pytest.mark.parametrize("factor", [0.5, 2])
def test_holdfasts_own_networks(factor):
    x = torch.rand(2, 1, 28, 28)
    widths = tuple(int(w * factor) for w in (16, 32))
    expected = SmallCNN(widths=widths, hidden=int(100 * factor))
    assert sizes(Width(factor=factor).apply(SmallCNN(), (x,))) == sizes(expected)
    image = torch.rand(2, 3, 32, 64)
    unet = UNet()
    parameters = sum(sizes(unet))
    outputs = unet.eval()(image)
    widened = Width(factor=factor).apply(unet, (image,)).eval()
    assert widened(image).shape == outputs.shape
    assert sum(sizes(widened)) / parameters == pytest.approx(factor**2, rel=0.1)


def test_a_linear_layer_over_positions_cannot_be_told_from_one_over_channels():
    class Pooling(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.rows, self.head = nn.Conv2d(3, 4, 1), nn.Linear(8, 4), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.head(self.rows(self.trunk(x).transpose(2, 3)))

    with pytest.raises(InputError, match="give the width as an option of the task"):
        Width(factor=2).apply(Pooling(), (torch.rand(2, 3, 8, 6),))


def test_factor_one_changes_nothing():
    model = SmallCNN()
    before = [*model.modules()]
    assert [*Width().apply(model, (torch.rand(2, 1, 28, 28),)).modules()] == before


def test_refusals():
    x = torch.rand(2, 1, 28, 28)
    with pytest.raises(InputError, match="are not whole"):
        Width(factor=0.3).apply(SmallCNN(), (x,))
    with pytest.raises(InputError, match="'0' cannot be widened"):
        Width(factor=2).apply(nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 2)), (torch.tensor([0, 1]),))
    with pytest.raises(NoEffectError, match="no convolution or linear layer"):
        Width(factor=2).apply(nn.Sequential(nn.ReLU()), (x,))

    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.b(self.a(x).view(-1, 6))

    with pytest.raises(InputError, match=r"outputs changed|does not run"):
        Width(factor=2).apply(Stubborn(), (torch.rand(3, 4),))
    with pytest.raises(InputError, match="not positive"):
        Width(factor=0)
