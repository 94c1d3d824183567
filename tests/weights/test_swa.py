from __future__ import annotations

import pytest
import torch
from averages_twin import equal_mean, snapshot
from torch import nn

from holdfast.core.errors import InputError, NoEffectError
from holdfast.weights.swa import SWA


def walk(model: nn.Module, average: object, steps: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    seen = []
    for _ in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn(parameter.shape, generator=generator).to(parameter)
        average.update(model)
        seen.append(snapshot(model))
    return seen


@pytest.mark.parametrize(("start", "every"), [(0, 1), (3, 1), (0, 4), (5, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equals_the_mean_of_the_chosen_iterates(start: int, every: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).to(dtype)
    average = SWA(start_step=start, every_steps=every).start(model)
    seen = walk(model, average, 17)
    twin = equal_mean(seen[start + every - 1 :: every])
    for name, value in average.weights().items():
        rounding = 4 * max(torch.finfo(dtype).eps, 1e-7)
        torch.testing.assert_close(value, twin[name], rtol=rounding, atol=rounding)


def test_the_first_weights_do_not_count() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1e6)
    average = SWA().start(model)
    nn.init.constant_(model.weight, 2.0)
    average.update(model)
    assert float(average.weights()["weight"]) == 2.0


def test_an_average_of_nothing_is_refused() -> None:
    model = nn.Linear(1, 1)
    average = SWA(start_step=10).start(model)
    average.update(model)
    with pytest.raises(NoEffectError, match="no iterate was averaged in 1 updates"):
        average.weights()


@pytest.mark.parametrize("settings", [{"start_step": -1}, {"every_steps": 0}])
def test_wrong_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least"):
        SWA(**settings)


def test_the_record_counts_iterates() -> None:
    model = nn.Linear(1, 1)
    average = SWA(every_steps=2).start(model)
    walk(model, average, 5)
    assert (average.record()["average"], average.record()["iterates"]) == ("swa", 2)
