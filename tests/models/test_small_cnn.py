from __future__ import annotations

import pytest
import torch

from holdfast.models.small_cnn import SmallCNN


@pytest.mark.parametrize("size", [(28, 28), (51, 84), (17, 33)])
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("norm", [True, False])
def test_outputs_for_any_size(size: tuple[int, int], pool: int, norm: bool) -> None:
    net = SmallCNN(inputs=3, outputs=4, size=size, widths=(4, 8, 8), hidden=6, pool=pool, norm=norm)
    assert net(torch.rand(2, 3, *size)).shape == (2, 4)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    net = SmallCNN(dropout=0.5, norm=False)
    x = torch.rand(4, 1, 28, 28)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
