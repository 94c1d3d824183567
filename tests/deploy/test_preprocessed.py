from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from holdfast.core.errors import InputError
from holdfast.deploy.export import export_onnx
from holdfast.deploy.ort import open_session, run_session
from holdfast.deploy.preprocessed import Preprocessed
from holdfast.tasks.classification import classification
from holdfast.tasks.ingredients import camera_pipelines


def _task(model: nn.Module, **pipelines):
    return classification(
        name="seen", build_model=lambda: model, data=lambda split: None,
        pipelines={**camera_pipelines((16, 16)), **pipelines},
    )  # fmt: skip


@pytest.mark.parametrize("pipeline", ["train", pytest.param("vehicle", marks=pytest.mark.slow)])
def test_the_graph_takes_frames_and_computes_what_pipeline_and_model_do(conv_net, tmp_path, pipeline: str) -> None:
    model = conv_net(0)
    task = _task(model)
    frames = torch.randint(0, 256, (3, 3, 24, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    graph = export_onnx(Preprocessed(model, task, pipeline).eval(), (frames[:2],), tmp_path)
    session = open_session(graph.path, threads=1)
    assert [entry.name for entry in session.get_inputs()] == ["frame"]
    expected = model(task.pipelines[pipeline]({"image": frames})["image"])
    for given, wanted in zip(run_session(session, (frames,)), expected.values(), strict=True):
        torch.testing.assert_close(given, wanted.detach(), atol=1e-5, rtol=1e-4)


def test_what_is_no_chain_of_steps_is_refused(conv_net) -> None:
    task = _task(conv_net(0), odd=lambda batch: batch)
    for name in ("odd", "nowhere"):
        with pytest.raises(InputError, match="is no chain of steps on one image"):
            Preprocessed(conv_net(0), task, name)


def test_a_model_that_takes_more_than_the_image_is_refused(conv_net) -> None:
    task = replace(_task(conv_net(0)), inputs=lambda batch: (batch["image"], batch["speed"]))
    with pytest.raises(InputError, match="takes 'speed' beside 'image'"):
        Preprocessed(conv_net(0), task, "train")(torch.zeros(2, 3, 24, 40, dtype=torch.uint8))
