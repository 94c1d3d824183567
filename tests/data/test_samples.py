from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holdfast.core.errors import InputError
from holdfast.data.samples import Copies, Samples


def plus_noise(sample: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    return {**sample, "x": sample["x"] + torch.randn(3, generator=generator)}


def test_samples_are_columns_by_index() -> None:
    data = Samples(x=torch.arange(6).view(3, 2), y=[1.0, 2.0, 3.0])
    assert len(data) == 3
    assert data[1]["x"].tolist() == [2, 3]
    assert float(data[2]["y"]) == 3.0
    assert data.take([2, 0]).columns["y"].tolist() == [3.0, 1.0]
    assert len(data.take(slice(0, 2))) == 2


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(InputError, match=r"columns of lengths \{'x': 2, 'y': 3\}"):
        Samples(x=[1, 2], y=[1, 2, 3])
    with pytest.raises(InputError, match="columns of lengths"):
        Samples()


def test_copies_begin_with_the_samples_themselves() -> None:
    base = Samples(x=torch.zeros(4, 3), y=torch.arange(4))
    copies = Copies(base=base, change=plus_noise, count=3)
    assert len(copies) == 12
    assert all(bool((copies[i]["x"] == 0).all()) for i in range(4))
    assert [int(copies[i]["y"]) for i in range(12)] == [0, 1, 2, 3] * 3


def test_copies_are_the_same_on_every_read_and_all_different() -> None:
    copies = Copies(base=Samples(x=torch.zeros(4, 3)), change=plus_noise, count=5)
    first = torch.stack([copies[i]["x"] for i in range(len(copies))])
    again = torch.stack([copies[i]["x"] for i in reversed(range(len(copies)))]).flip(0)
    assert torch.equal(first, again)
    assert len(torch.unique(first[4:], dim=0)) == 16
    other = Copies(base=Samples(x=torch.zeros(4, 3)), change=plus_noise, count=5, seed=1)
    assert not torch.equal(other[4]["x"], first[4])


def test_copies_end() -> None:
    copies = Copies(base=Samples(x=torch.zeros(4, 3)), change=plus_noise, count=2)
    with pytest.raises(IndexError):
        copies[8]
    assert len(list(copies)) == 8
