from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from averages_twin import ema as ema_twin
from averages_twin import snapshot
from torch import nn

from holdfast.core.errors import InputError
from holdfast.weights.ema import EMA


def batchnorm_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 16, 2))


def wander(model: nn.Module, seed: int) -> None:
    """One step of a random walk, with a forward so that the BatchNorm statistics move, too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
        if isinstance(model, nn.Sequential):
            model(torch.randn(8, 1, 6, 6, generator=generator).to(next(model.parameters())))


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equals_the_twin_over_many_steps(warmup: bool, debias: bool, dtype: torch.dtype) -> None:
    model = batchnorm_net().to(dtype)
    average = EMA(decay=0.9, warmup=warmup, debias=debias).start(model)
    seen = [snapshot(model)]
    for step in range(25):
        wander(model, step)
        average.update(model)
        seen.append(snapshot(model))
    twin = ema_twin(seen, 0.9, warmup=warmup, debias=debias)
    rounding = max(torch.finfo(dtype).eps, 1e-7)
    for name, value in average.weights().items():
        assert value.dtype == twin[name].dtype
        torch.testing.assert_close(value, twin[name], rtol=4 * rounding, atol=rounding)


def test_counters_are_copied_not_averaged() -> None:
    model = batchnorm_net()
    average = EMA(decay=0.99).start(model)
    for step in range(11):
        wander(model, step)
        average.update(model)
    assert int(average.weights()["1.num_batches_tracked"]) == 11


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_is_averaged_in_fp32(dtype: torch.dtype) -> None:
    model = nn.Linear(1, 1, bias=False).to(dtype)
    nn.init.constant_(model.weight, 1.0)
    average = EMA(decay=0.9999, warmup=False).start(model)
    nn.init.constant_(model.weight, 2.0)
    for _ in range(20_000):
        average.update(model)
    exact = 2.0 - 0.9999**20_000  # 1.8647; an average kept in bf16 still stands at 1
    shadow = average.state_dict()["shadow"]["weight"]
    assert shadow.dtype == torch.float32
    assert float(shadow) == pytest.approx(exact, abs=2e-4)
    assert average.weights()["weight"].dtype == dtype


def test_narrow_tensors_longer_than_a_chunk_are_averaged_whole() -> None:
    model = nn.Linear(700, 800, bias=False).to(torch.bfloat16)
    average = EMA(decay=0.5, warmup=False).start(model)
    before = model.weight.detach().float()
    with torch.no_grad():
        model.weight.add_(torch.randn_like(model.weight))
    average.update(model)
    torch.testing.assert_close(
        average.state_dict()["shadow"]["weight"], (before + model.weight.float()) / 2, rtol=1e-6, atol=1e-6
    )


def test_warmup_and_debias_forget_the_initial_weights() -> None:
    def after(settings: EMA) -> float:
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, 0.0)
        average = settings.start(model)
        nn.init.constant_(model.weight, 1.0)
        for _ in range(20):
            average.update(model)
        return float(average.weights()["weight"])

    assert after(EMA(decay=0.999, warmup=False)) < 0.03
    assert after(EMA(decay=0.999)) > 0.99
    assert after(EMA(decay=0.999, warmup=False, debias=True)) == pytest.approx(1.0)


def test_ties_stay_tied_and_are_moved_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    average = EMA(decay=0.5, warmup=False).start(model)
    before = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    average.update(model)
    weights = average.weights()
    assert weights["0.weight"] is weights["1.weight"]
    torch.testing.assert_close(weights["0.weight"], before + 0.5)


def test_resume_gives_the_same_bits() -> None:
    def run(interrupt_at: int | None) -> dict[str, torch.Tensor]:
        model = batchnorm_net()
        average = EMA(decay=0.95, debias=True).start(model)
        for step in range(12):
            if step == interrupt_at:
                file = io.BytesIO()
                torch.save(average.state_dict(), file)
                file.seek(0)
                average = EMA(decay=0.95, debias=True).start(batchnorm_net())
                average.load_state_dict(torch.load(file, weights_only=True))
            wander(model, step)
            average.update(model)
        return average.weights()

    straight, resumed = run(None), run(7)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_a_saved_state_does_not_change_when_training_goes_on() -> None:
    model = batchnorm_net()
    average = EMA(decay=0.5).start(model)
    saved, weights = average.state_dict(), average.weights()
    kept = {name: tensor.clone() for name, tensor in saved["shadow"].items()}
    wander(model, 0)
    average.update(model)
    assert all(torch.equal(saved["shadow"][name], kept[name]) for name in kept)
    assert torch.equal(weights["0.weight"], kept["0.weight"])


def test_resuming_with_another_decay_is_refused() -> None:
    model = nn.Linear(2, 2)
    saved = EMA(decay=0.9).start(model).state_dict()
    with pytest.raises(InputError, match=r"saved with .*0\.9.*resumed with .*0\.99"):
        EMA(decay=0.99).start(model).load_state_dict(saved)


def replace_parameters(model: nn.Sequential) -> None:
    model[0].weight = nn.Parameter(model[0].weight.detach() + 1.0)


def replace_buffers(model: nn.Sequential) -> None:
    model[1].running_mean = torch.ones(4)


@pytest.mark.parametrize("change", [replace_parameters, replace_buffers])
def test_tensors_replaced_in_the_model_are_followed(change: Callable[[nn.Module], None]) -> None:
    model = batchnorm_net()
    average = EMA(decay=0.0, warmup=False).start(model)
    change(model)
    average.update(model)
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in average.weights().items())


def test_a_copy_of_the_model_may_be_observed_instead() -> None:
    model, other = batchnorm_net(), batchnorm_net()
    wander(other, 1)
    average = EMA(decay=0.0, warmup=False).start(model)
    average.update(other)
    assert torch.equal(average.weights()["0.weight"], other.state_dict()["0.weight"])
    with pytest.raises(InputError, match="other entries than at the start"):
        average.update(nn.Linear(2, 2))


def test_a_changed_shape_is_refused_by_name() -> None:
    model = nn.Linear(2, 1)
    average = EMA().start(model)
    model.weight = nn.Parameter(torch.zeros(1, 1))  # would broadcast
    with pytest.raises(InputError, match=r"weight is \(1, 1\) on cpu, at the start it was \(1, 2\) on cpu"):
        average.update(model)


@pytest.mark.parametrize("change", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_a_model_that_changes_its_dtype_is_followed(change: tuple[torch.dtype, torch.dtype]) -> None:
    model = nn.Linear(3, 3).to(change[0])
    average = EMA(decay=0.0, warmup=False).start(model)
    average.update(model)
    model.to(change[1])
    with torch.no_grad():
        model.weight.fill_(7.0)
    average.update(model)
    weights = average.weights()["weight"]
    assert weights.dtype == change[1]
    assert bool((weights == 7.0).all())


def test_another_model_of_other_shapes_is_refused() -> None:
    average = EMA().start(nn.Linear(2, 1))
    with pytest.raises(InputError, match=r"weight is \(1, 1\) on cpu"):
        average.update(nn.Linear(1, 1))


def test_extra_state_is_passed_through() -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

        def set_extra_state(self, state: dict[str, int]) -> None:
            assert state == {"calls": 3}

    model = Counting(2, 2)
    average = EMA().start(model)
    average.update(model)
    model.load_state_dict(average.weights())
    assert average.weights()["_extra_state"] == {"calls": 3}


def test_observing_does_not_touch_the_model() -> None:
    model = batchnorm_net()
    before = snapshot(model)
    average = EMA(decay=0.5).start(model)
    average.update(model)
    average.weights()["0.weight"].zero_()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(InputError, match="outside"):
        EMA(decay=decay)


def test_a_model_without_state_is_refused() -> None:
    with pytest.raises(InputError, match="neither parameters nor buffers"):
        EMA().start(nn.ReLU())


def test_the_record_says_what_was_done() -> None:
    model = batchnorm_net()
    average = EMA(decay=0.9).start(model)
    average.update(model)
    record = average.record()
    assert record["average"] == "ema"
    assert record["updates"] == 1
    assert record["entries"] == {"parameter": 6, "batchnorm": 2, "integer": 1}
