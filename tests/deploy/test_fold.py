from __future__ import annotations

import math

import pytest
import torch
from deploy_nets import settle
from torch import Tensor, nn

from holdfast.deploy.fold import agreement_db, fold_batchnorm
from holdfast.deploy.identity import weights_key


def test_outputs_stay_and_the_model_is_not_changed(conv_net, images) -> None:
    model = conv_net(0)
    before = weights_key(model)
    folded, names = fold_batchnorm(model.train(), (images,))
    assert names == ("trunk.1", "trunk.4")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert weights_key(model) == before
    assert model.training
    with torch.no_grad():
        expected, got = model.eval()(images), folded(images)
    torch.testing.assert_close(got["scores"], expected["scores"])


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), (3, 9)),
        (nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4), (3, 4, 4, 4)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (4, 5, 5)),
        (nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8, affine=False), (4, 6, 6)),
        (nn.Linear(5, 4), nn.BatchNorm1d(4), (5,)),
    ],
)
def test_every_kind_of_layer(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = settle(nn.Sequential(layer, norm), *shape)
    x = torch.rand(4, *shape)
    folded, names = fold_batchnorm(model, (x,))
    assert names == ("1",)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x))


class _Branched(nn.Module):
    """The first convolution feeds its normalisation and the sum as well, so folding it would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.second, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return self.other(self.second(self.norm(first))) + first


def test_a_layer_with_another_consumer_is_left_alone(images) -> None:
    torch.manual_seed(0)
    model = settle(_Branched(), 3, 16, 16)
    folded, names = fold_batchnorm(model, (images,))
    assert names == ("other",)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model(images))


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.norm(self.layer(x)))


def test_a_layer_that_is_used_twice_is_left_alone() -> None:
    assert fold_batchnorm(settle(_Twice(), 3), (torch.rand(4, 3),))[1] == ()


def test_batch_statistics_cannot_be_folded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert fold_batchnorm(model, (torch.rand(2, 3, 4, 4),))[1] == ()


def test_agreement_in_decibels() -> None:
    x = torch.tensor([3.0, 4.0])
    assert agreement_db([x], [x]) == math.inf
    assert agreement_db([x], [x + torch.tensor([0.5, 0.0])]) == pytest.approx(20.0)
    assert agreement_db([x, x], [x, x + torch.tensor([0.0, 5.0])]) == pytest.approx(0.0)
    broken = torch.tensor([math.nan, 1.0])
    assert agreement_db([broken], [broken]) == math.inf
    assert agreement_db([x], [broken]) == -math.inf
    assert agreement_db([broken], [x]) == -math.inf
