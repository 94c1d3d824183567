from __future__ import annotations

import pytest
import torch

from holdfast.core.errors import InputError
from holdfast.tasks.ingredients import camera_pipelines, image_space, require

FRAMES = {"image": torch.randint(0, 256, (2, 3, 20, 40), generator=torch.Generator().manual_seed(0)).byte(), "y": [1]}


def test_every_pipeline_gives_inputs_of_one_size_in_range() -> None:
    prepared = {name: pipeline(FRAMES) for name, pipeline in camera_pipelines((8, 16)).items()}
    assert {"train", "vehicle", "nearest"} <= set(prepared)
    for name, batch in prepared.items():
        assert batch["image"].shape == (2, 3, 8, 16)
        assert batch["y"] is FRAMES["y"]
        image_space("image").check(batch, where=name)
    inputs = [batch["image"] for batch in prepared.values()]
    assert not any(torch.equal(a, b) for i, a in enumerate(inputs) for b in inputs[:i]), "two pipelines are one"


def test_the_vehicle_hands_over_whole_grey_levels() -> None:
    levels = camera_pipelines((8, 16))["vehicle"](FRAMES)["image"] * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)


def test_require_names_what_is_missing() -> None:
    require("classification", build_model=1, data=2)
    with pytest.raises(InputError, match=r"task 'x': needs data \(write .* x\(build_model=\.\.\., data=\.\.\.\)"):
        require("x", build_model=1, data=None)
