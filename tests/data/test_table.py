"""Tables: a split under a pipeline, written once, mapped by everybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from holdfast.core.contracts import Metric, Task
from holdfast.core.errors import InputError
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.table import Table, materialise, open_table, spread


class Frames:
    """Samples in nests, to see that structure survives; counts how often it is read."""

    def __init__(self, n: int = 150, value: float = 0.5) -> None:
        self.n, self.value, self.reads = n, value, 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> dict[str, Any]:
        self.reads += 1
        return {"image": torch.full((3, 2, 2), self.value), "pair": (torch.tensor(i), 2.0 * i)}


def make_task(data: Frames) -> Task:
    def halved(batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "image": batch["image"] / 2}

    return Task(
        name="toy", build_model=nn.Identity, data=lambda split: data, loss=lambda outputs, batch: outputs,
        metrics=(Metric(name="m", compute=lambda outputs, batch: outputs, unit="1"),),
        space=InputSpace({"image": Leaf()}), pipelines={"train": lambda batch: batch, "halved": halved},
    )  # fmt: skip


def folders(root: Path) -> dict[str, Path]:
    return {name: root / name for name in ("train", "halved")}


def test_round_trip_keeps_structure_order_and_dtype(tmp_path: Path) -> None:
    materialise(make_task(Frames()), "train", ["train", "halved"], folders(tmp_path))
    table = open_table(tmp_path / "halved")
    batch = table.batch(torch.tensor([149, 3]))
    assert len(table) == 150
    assert torch.equal(batch["image"], torch.full((2, 3, 2, 2), 0.25))
    assert batch["pair"][0].tolist() == [149, 3]
    assert batch["pair"][1].tolist() == [298.0, 6.0]


def test_a_batch_is_writable_and_does_not_reach_the_file(tmp_path: Path) -> None:
    materialise(make_task(Frames()), "train", ["train", "halved"], folders(tmp_path))
    open_table(tmp_path / "train").batch(torch.tensor([0]))["image"].fill_(9)
    assert float(open_table(tmp_path / "train").columns["image"].max()) == 0.5


def test_a_complete_table_is_not_made_again(tmp_path: Path) -> None:
    data = Frames()
    materialise(make_task(data), "train", ["train", "halved"], folders(tmp_path))
    reads = data.reads
    materialise(make_task(data), "train", ["train", "halved"], folders(tmp_path))
    assert data.reads == reads


def test_batches_cover_everything_in_order() -> None:
    table = Table({"x": torch.arange(10)})
    assert [batch["x"].tolist() for batch in table.batches(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Frames(0), "is empty"),
        (Frames(5, value=float("nan")), "NaN or infinite"),
        (Frames(5, value=7.0), "leave the declared range"),
    ],
)
def test_bad_data_is_refused_with_its_place(tmp_path: Path, data: Frames, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        materialise(make_task(data), "val", ["train"], folders(tmp_path))
    assert "'val'" in str(caught.value)
    assert not (tmp_path / "train" / "columns.json").exists()


def test_an_unknown_pipeline_is_refused_before_reading(tmp_path: Path) -> None:
    data = Frames()
    with pytest.raises(InputError, match="no pipeline 'vehicel'"):
        materialise(make_task(data), "train", ["vehicel"], {"vehicel": tmp_path})
    assert data.reads == 0


@pytest.mark.parametrize(("length", "limit", "found"), [(10, 3, [0, 4, 9]), (3, 10, [0, 1, 2]), (5, 1, [0])])
def test_samples_are_spread_from_the_first_to_the_last(length: int, limit: int, found: list[int]) -> None:
    assert spread(length, limit).tolist() == found
