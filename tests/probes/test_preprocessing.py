from __future__ import annotations

import pytest
import torch
from corruption_twins import photo
from probe_benches import bench_of
from torch import Tensor, nn

from holdfast.core.contracts import Drift, Measurement, Metric
from holdfast.core.errors import InputError, NoEffectError
from holdfast.data.preprocess import Gain, Gamma, Pipeline, Resize, RoundUint8, Scale, SwapChannels
from holdfast.probes.preprocessing import Preprocessing

FRAMES = torch.stack([torch.from_numpy(photo(i, 24, 30)) for i in range(5)]).permute(0, 3, 1, 2).contiguous()
RESIZE = Resize(size=(12, 15))
TRAIN = Pipeline(steps=(RESIZE, Scale()))
VEHICLE = Pipeline(steps=(SwapChannels(), Resize(size=(12, 15), kernel="nearest_exact"), Gain(gain=1.1), Scale()))
PIPELINES = {"train": TRAIN, "vehicle": VEHICLE}


class Red(nn.Module):
    """Mean of the first channel, as a number and so without interaction of what changes it linearly."""

    def forward(self, image: Tensor) -> Tensor:
        return image[:, :1].mean((2, 3))


NUMBER = {
    "metrics": (Metric(name="level", compute=lambda o, b: o[:, 0].double(), unit="1"),),
    "drifts": (Drift(name="moved", compute=lambda r, o, b: (o - r)[:, 0].abs().double(), unit="1"),),
}


def bench(**changes):
    options = {"model": Red(), "preprocessing": ("train", "vehicle"), **NUMBER, **changes}
    return bench_of(FRAMES, options.pop("pipelines", PIPELINES), **options)


def rows(probe: Preprocessing, on) -> dict[tuple[str, str], Measurement]:
    found = list(probe.run(on))
    return {(m.row.condition, m.row.metric): m for m in found}


def level(*steps) -> Tensor:
    return Red()(Pipeline(steps=steps)({"image": FRAMES})["image"])[:, 0].double()


def test_each_swap_is_what_the_mixed_pipeline_gives() -> None:
    found = rows(Preprocessing(resizers=False), bench())
    nearest = VEHICLE.step("resize")
    expected = {
        "none": level(RESIZE, Scale()),
        "all": level(*VEHICLE.steps),
        "only channels": level(SwapChannels(), RESIZE, Scale()),
        "only resize": level(nearest, Scale()),
        "only gain": level(RESIZE, Gain(gain=1.1), Scale()),
        "all but gain": level(SwapChannels(), nearest, Scale()),
        "all but channels": level(nearest, Gain(gain=1.1), Scale()),
    }
    for condition, values in expected.items():
        assert found[condition, "level"].values == pytest.approx(values.numpy(), abs=1e-6)
        moved = (values - expected["none"]).abs().numpy()
        assert found[condition, "moved"].values == pytest.approx(moved, abs=1e-6)


def test_shares_sum_to_the_whole_change_and_interaction_is_the_rest() -> None:
    found = rows(Preprocessing(resizers=False), bench())
    for metric in ("level", "moved"):
        whole = found["all", metric].values - found["none", metric].values
        shares = {c: m.values for (c, name), m in found.items() if name == metric and c.startswith("share of ")}
        assert set(shares) == {"share of channels", "share of resize", "share of gain"}
        assert sum(shares.values()) == pytest.approx(whole, abs=1e-9)
        alone = sum(
            found[f"only {c}", metric].values - found["none", metric].values for c in ("channels", "resize", "gain")
        )
        assert found["interaction", metric].values == pytest.approx(whole - alone, abs=1e-9)
        assert found["share of gain", metric].row.better == "neither"


def test_steps_of_a_group_are_swapped_together() -> None:
    found = rows(Preprocessing(groups={"light": ("gain", "channels")}, resizers=False), bench())
    assert {c for c, _ in found if c.startswith("only")} == {"only light", "only resize"}
    expected = level(SwapChannels(), RESIZE, Gain(gain=1.1), Scale())
    assert found["only light", "level"].values == pytest.approx(expected.numpy(), abs=1e-6)


def test_more_than_six_steps_are_sampled_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Preprocessing, "EXACT_UP_TO", 2)
    found = rows(Preprocessing(orders=8, resizers=False), bench())
    shares = {c: m.values for (c, metric), m in found.items() if metric == "level" and c.startswith("share of ")}
    assert set(shares) == {f"share of {c} (8 orders)" for c in ("channels", "resize", "gain")}
    assert sum(shares.values()) == pytest.approx(found["all", "level"].values - found["none", "level"].values, abs=1e-9)


def test_real_resizers_are_compared() -> None:
    found = rows(Preprocessing(), bench())
    named = {c for c, _ in found if c.startswith("resize by ")}
    assert named >= {"resize by Pillow bilinear", "resize by torch bilinear", "resize by torch bilinear antialias"}
    moved = {c: found[c, "moved"].row.value for c in named}
    assert moved["resize by torch bilinear antialias"] == 0  # it is the training pipeline's own
    assert moved["resize by Pillow bilinear"] < 0.5 / 255 < 1


def test_a_pipeline_without_a_resize_has_no_resizers_to_compare() -> None:
    plain = {"train": Pipeline(steps=(Scale(),)), "vehicle": Pipeline(steps=(Gamma(), Scale()))}
    assert not [c for c, _ in rows(Preprocessing(), bench(pipelines=plain)) if c.startswith("resize by")]


def test_what_cannot_be_swapped_is_refused() -> None:
    with pytest.raises(InputError, match=r"which is the vehicle's pipeline.*'train', 'vehicle'"):
        list(Preprocessing().run(bench(preprocessing=("train",))))
    with pytest.raises(InputError, match="one pipeline: there is nothing to swap"):
        list(Preprocessing().run(bench(pipelines={"train": TRAIN}, preprocessing=("train",))))
    with pytest.raises(InputError, match="no pipeline 'vehical'"):
        list(Preprocessing(vehicle="vehical").run(bench()))
    with pytest.raises(InputError, match="chain of named steps"):
        list(Preprocessing().run(bench(pipelines={"train": TRAIN, "vehicle": lambda batch: TRAIN(batch)})))
    with pytest.raises(NoEffectError, match="the same"):
        list(Preprocessing().run(bench(pipelines={"train": TRAIN, "vehicle": TRAIN})))
    with pytest.raises(InputError, match="step 'gane' is in no pipeline"):
        list(Preprocessing(groups={"light": ("gane",)}).run(bench()))


def test_pipelines_are_mixed_in_an_order_that_both_keep() -> None:
    a = Pipeline(steps=(Gamma(), RESIZE, RoundUint8(), Scale()))
    assert a.differences(VEHICLE) == ("channels", "gamma", "resize", "gain", "round")
    assert [step.name for step in a.mixed(VEHICLE, {"channels", "gain", "round"}).steps] == [
        "channels", "gamma", "resize", "gain", "scale",
    ]  # fmt: skip
    assert a.mixed(VEHICLE, ()) == a
    assert a.mixed(VEHICLE, a.differences(VEHICLE)) == VEHICLE
    with pytest.raises(InputError, match="cannot be mixed"):
        a.mixed(Pipeline(steps=(Scale(), RESIZE)), ())
