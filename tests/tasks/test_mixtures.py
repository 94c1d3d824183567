from __future__ import annotations

import torch

from holdfast.tasks.masks import pixel_mixture
from holdfast.tasks.predicted import mean_probability


def logits(*shape, n=3):
    return list(torch.randn(n, *shape, generator=torch.Generator().manual_seed(0)))


def test_logits_of_the_mean_probability():
    outputs = logits(4, 5)
    expected = torch.stack([o.softmax(1) for o in outputs]).mean(0)
    torch.testing.assert_close(mean_probability(outputs).exp(), expected)


def test_pixels_with_several_classes_and_with_one():
    outputs = logits(2, 4, 3, 3)
    expected = torch.stack([o.softmax(1) for o in outputs]).mean(0)
    torch.testing.assert_close(pixel_mixture(outputs).softmax(1), expected)
    binary = logits(2, 1, 3, 3)
    torch.testing.assert_close(pixel_mixture(binary).sigmoid(), torch.stack([o.sigmoid() for o in binary]).mean(0))
