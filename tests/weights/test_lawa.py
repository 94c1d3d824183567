from __future__ import annotations

import pytest
import torch
from averages_twin import equal_mean, snapshot
from torch import nn

from holdfast.core.errors import InputError, NoEffectError
from holdfast.weights.lawa import LAWA


@pytest.mark.parametrize("every", [1, 3])
def test_equals_the_mean_of_the_last_iterates(every: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = LAWA(count=4, every_steps=every).start(model)
    seen = []
    for step in range(20):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(5, 3))
        average.update(model)
        if (step + 1) % every == 0:
            seen.append(snapshot(model))
    twin = equal_mean(seen[-4:])
    for name, value in average.weights().items():
        torch.testing.assert_close(value, twin[name], rtol=1e-6, atol=1e-7)


def test_an_average_of_nothing_is_refused() -> None:
    with pytest.raises(NoEffectError, match="no iterate was taken in 0 updates"):
        LAWA().start(nn.Linear(1, 1)).weights()


@pytest.mark.parametrize("settings", [{"count": 0}, {"every_steps": 0}])
def test_wrong_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        LAWA(**settings)
