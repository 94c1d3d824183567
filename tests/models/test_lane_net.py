from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from holdfast.deploy.export import export_onnx
from holdfast.models.lane_net import LaneNet

ROWS = [44.0, 52.0, 70.0]
LINES = [[-6.0, -10.0, -30.0], [6.0, 10.0, 30.0]]


def net(**options) -> LaneNet:
    torch.manual_seed(0)
    return LaneNet(rows_px=ROWS, expected_px=LINES, **options).eval()


def images(n):
    return torch.rand(n, 3, 96, 160, generator=torch.Generator().manual_seed(1))


def silenced(model: LaneNet) -> LaneNet:
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    return model


def test_without_evidence_it_says_where_lines_usually_are():
    with torch.no_grad():
        found = silenced(net())(images(2))
    torch.testing.assert_close(found, torch.tensor([LINES, LINES]), atol=0.05, rtol=0)


def test_offsets_move_a_line_by_less_than_a_column():
    model = silenced(net())
    with torch.no_grad():
        model.head.bias[2] = 0.5  # offset of the left line, times the sharpness of 4
        moved = model(images(1))
    torch.testing.assert_close(moved[0, 0], torch.tensor(LINES[0]) + 2.0, atol=0.05, rtol=0)
    torch.testing.assert_close(moved[0, 1], torch.tensor(LINES[1]), atol=0.05, rtol=0)


def test_pooling_starts_at_the_row_of_each_anchor():
    weight = net().rows.weight.detach()
    torch.testing.assert_close(weight.sum(dim=1), torch.ones(len(ROWS)))
    centres = (torch.arange(weight.shape[1]) + 0.5) * 4 + 32
    assert (weight[(centres - torch.tensor(ROWS)[:, None]).abs() > 6] == 0).all()


def test_the_sky_is_not_looked_at():
    image = images(1)
    changed = image.clone()
    changed[:, :, :32] = 0
    model = net()
    with torch.no_grad():
        assert torch.equal(model(image), model(changed))


@pytest.mark.parametrize(("width", "low", "high"), [(26, 40_000, 50_000), (52, 150_000, 170_000)])
def test_size(width, low, high):
    assert low <= sum(p.numel() for p in net(width=width).parameters()) <= high


def test_each_sample_is_seen_for_itself_and_twice_the_same():
    model, batch = net(), images(5)
    with torch.no_grad():
        together = model(batch)
        assert torch.equal(together, model(batch))
        torch.testing.assert_close(torch.cat([model(image[None]) for image in batch]), together, atol=1e-4, rtol=0)


def test_every_parameter_learns():
    model = net().train()
    model(images(4)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_memory_layout_changes_no_result():
    model, batch = net(), images(2)
    plain = net()
    plain.load_state_dict({name: value.contiguous() for name, value in model.state_dict().items()})
    plain.to(memory_format=torch.contiguous_format)
    with torch.no_grad():
        torch.testing.assert_close(model(batch), plain(batch), atol=1e-4, rtol=0)


def test_exports_with_its_normalisations_folded_and_any_batch_size(tmp_path):
    model = net()
    graph = export_onnx(model, (images(2),), tmp_path)
    assert len(graph.folded) == sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    session = onnxruntime.InferenceSession(graph.path, providers=["CPUExecutionProvider"])
    for n in (1, 3):
        [found] = session.run(None, {session.get_inputs()[0].name: images(n).numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, model(images(n)).numpy(), atol=1e-4)


def test_half_precision_moves_lines_by_hundredths_of_a_pixel():
    model, batch = net(), images(2)
    with torch.no_grad():
        exact = model(batch)
        half = model.half()(batch.half()).float()
    assert float((half - exact).abs().max()) < 0.1
