from __future__ import annotations

import pytest
import torch
from torch.nn.functional import one_hot

from holdfast.tasks.masks import MaskReading, flipped_share, iou, miscounted_rows, outline, pixel_divergence


def box(left: int, right: int, size: int = 8) -> torch.Tensor:
    mask = torch.zeros(1, size, size)
    mask[:, 2:6, left:right] = 1
    return mask


def test_iou_and_flips_count_pixels() -> None:
    assert float(iou(box(1, 5), box(3, 7))) == pytest.approx(2 / 6)
    assert float(flipped_share(box(1, 5), box(3, 7))) == pytest.approx(4 / 4)
    assert float(iou(box(1, 5), box(1, 5))) == 1
    assert float(flipped_share(box(1, 5), box(1, 5))) == 0


def test_empty_masks_have_no_score() -> None:
    empty = torch.zeros(1, 8, 8)
    assert torch.isnan(iou(empty, empty)).all()
    assert float(iou(box(1, 5), empty)) == 0
    assert torch.isnan(flipped_share(empty, box(1, 5))).all()


def test_pixels_that_do_not_count_are_left_out() -> None:
    left_half = torch.zeros(1, 8, 8, dtype=torch.bool)
    left_half[..., :4] = True
    assert float(iou(box(1, 8), box(1, 4), left_half)) == 1


def test_miscounted_rows() -> None:
    two = box(1, 3) + box(5, 7)
    assert float(miscounted_rows(box(1, 3), two)) == pytest.approx(4 / 8)
    assert float(miscounted_rows(two, two)) == 0


def test_one_logit_and_two_classes_read_the_same() -> None:
    """A sigmoid is a softmax against a logit of zero: every reading and divergence agrees."""
    generator = torch.Generator().manual_seed(0)
    logit, other = torch.randn(2, 3, 1, 6, 6, generator=generator)
    classes = torch.randint(0, 2, (3, 6, 6), generator=generator)
    pair, other_pair = (torch.cat([torch.zeros_like(x), x], 1) for x in (logit, other))
    soft, hard = {"mask": classes[:, None].float()}, {"mask": classes}
    read = MaskReading()
    torch.testing.assert_close(read.predicted(logit), read.predicted(pair))
    torch.testing.assert_close(read.true(soft), read.true(hard))
    torch.testing.assert_close(read.loss(logit, soft), read.loss(pair, hard))
    torch.testing.assert_close(read.iou(logit, soft), read.iou(pair, hard))
    torch.testing.assert_close(pixel_divergence(logit, other), pixel_divergence(pair, other_pair))
    assert torch.equal(read.pseudo_label(logit, soft)["mask"][:, 0].long(), read.pseudo_label(pair, hard)["mask"])


def test_ignored_pixels_have_no_loss_and_no_score() -> None:
    read = MaskReading(foreground=2, ignore=11)
    labels = torch.tensor([[[2, 2, 0, 11]]])
    logits = 20.0 * one_hot(torch.tensor([[[2, 2, 0, 2]]]), 12).permute(0, 3, 1, 2)
    assert float(read.loss(logits, {"mask": labels})) == pytest.approx(0, abs=1e-6)
    assert float(read.iou(logits, {"mask": labels})) == 1
    assert float(read.loss(logits, {"mask": torch.full_like(labels, 11)})) == 0


def test_divergence_is_zero_only_at_home_and_differentiable() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 2, 1, 4, 4, generator=generator)
    b.requires_grad_()
    assert pixel_divergence(a, a).abs().max() < 1e-6
    assert bool((pixel_divergence(a, b) > 0).all())
    pixel_divergence(a, b).sum().backward()
    assert b.grad is not None
    assert bool(b.grad.isfinite().all())


def test_outline_runs_along_the_border_in_pixels_of_the_image() -> None:
    [border] = outline(box(2, 6)[0], 16, 32)
    x, y = border.T
    assert (x.min(), x.max()) == pytest.approx((1.5 * 4 + 1.5, 5.5 * 4 + 1.5))
    assert (y.min(), y.max()) == pytest.approx((1.5 * 2 + 0.5, 5.5 * 2 + 0.5))
    assert outline(torch.zeros(8, 8), 16, 32) == []
