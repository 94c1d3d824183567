from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.errors import BackendError
from holdfast.deploy.backends.compiled import Compiled

needs_compiler = pytest.mark.skipif(not Compiled().probe().ok, reason=Compiled().probe().reason)


class _Branching(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image * 2 if image.mean() > 0 else image


@needs_compiler
def test_what_is_not_one_graph_is_refused_in_one_line(images, tmp_path) -> None:
    with pytest.raises(BackendError, match="is not compiled as one graph") as caught:
        Compiled().prepare(_Branching(), (images[:2],), PrecisionPlan(), None, tmp_path)
    assert "\n" not in str(caught.value)


@needs_compiler
@pytest.mark.slow
def test_the_model_itself_is_left_alone(conv_net, images, tmp_path) -> None:
    model = conv_net(0)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    backend = Compiled()
    session = backend.load(backend.prepare(model, (images[:2],), PrecisionPlan(), None, tmp_path))
    torch.testing.assert_close(session(images)["scores"], model(images)["scores"].detach(), atol=1e-5, rtol=1e-4)
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())


def test_without_a_compiler_it_says_how_to_get_one(monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    available = Compiled().probe()
    assert not available.ok
    assert "install g++" in available.reason
