from __future__ import annotations

import torch

from holdfast.models.unet import UNet


def test_mask_has_the_size_of_the_image() -> None:
    net = UNet(inputs=3, outputs=2, widths=(4, 8, 8)).eval()
    assert net(torch.rand(2, 3, 16, 24)).shape == (2, 2, 16, 24)


def test_default_size() -> None:
    assert sum(p.numel() for p in UNet().parameters()) == 122_465


def test_every_parameter_matters() -> None:
    net = UNet(widths=(4, 8))
    net(torch.rand(2, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())


def test_skips_carry_what_pooling_loses() -> None:
    """A checkerboard is invisible after one pooling; only the skip connection can tell its phase."""
    torch.manual_seed(0)
    net = UNet(inputs=1, widths=(4, 8)).eval()
    board = (torch.arange(8)[:, None] + torch.arange(8)).remainder(2).float()[None, None]
    assert not torch.allclose(net(board), net(1 - board))
