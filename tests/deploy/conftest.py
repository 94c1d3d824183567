from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from deploy_nets import ConvNet, settle
from torch import Tensor, nn

torch.set_num_threads(1)


@pytest.fixture
def conv_net() -> Callable[[int], nn.Module]:
    def build(seed: int, **options: float) -> nn.Module:
        torch.manual_seed(seed)
        return settle(ConvNet(**options), 3, 16, 16)

    return build


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of artefacts, so that the slow translation is shared."""
    return tmp_path_factory.mktemp("graphs")
