from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.core.errors import InputError
from holdfast.weights import files
from holdfast.weights.ema import EMA
from holdfast.weights.provenance import averages_beside, describe_weights


def test_an_average_beside_raw_weights_is_found(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    ema = EMA().start(model)
    ema.update(model)
    files.save(tmp_path / "last.safetensors", model.state_dict(), {"epoch": 3})
    files.save(tmp_path / "ema.safetensors", ema.weights(), ema.record())
    files.save(tmp_path / "another_model.safetensors", nn.Linear(2, 2, bias=False).state_dict(), {"average": "swa"})
    (tmp_path / "damaged.safetensors").write_bytes(b"junk")
    assert averages_beside(tmp_path / "last.safetensors") == [f"{tmp_path / 'ema.safetensors'} (ema)"]
    assert averages_beside(tmp_path / "ema.safetensors") == []


def test_an_average_in_the_same_file_is_found(tmp_path: Path) -> None:
    state = nn.Linear(2, 2).state_dict()
    torch.save({"model": state, "ema": state}, tmp_path / "c.pt")
    assert averages_beside(tmp_path / "c.pt") == [f"{tmp_path / 'c.pt'}, key ema"]
    assert averages_beside(tmp_path / "c.pt", key="ema") == []


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "raw"),
        ({"source": {"key": "model"}}, "raw"),
        ({"source": {"key": "ema"}}, "average (ema)"),
        ({"average": "ema", "decay": 0.9}, "ema"),
        ({"average": "uniform soup", "ingredients": [1, 2], "batchnorm": {"chosen": "average"}},
         "uniform soup, of 2, BatchNorm: average"),
        ({"average": "greedy soup", "members": ["a"], "ingredients": [1, 2]}, "greedy soup, of 1"),
    ],
)  # fmt: skip
def test_weights_are_described_in_a_few_words(metadata: dict[str, object], words: str) -> None:
    assert describe_weights(metadata) == words


def test_unreadable_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        averages_beside(tmp_path / "none.pt")
