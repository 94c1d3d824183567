from __future__ import annotations

import pytest
import torch
from corruption_twins import photo
from probe_benches import Brightness, bench_of

from holdfast.core.contracts import Measurement, Subject
from holdfast.core.discover import build
from holdfast.core.errors import InputError
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.corruptions.published import ALEXNET_CLEAN_ERROR, ALEXNET_ERRORS, COMMON
from holdfast.data.corruptions.sealed import corrupted
from holdfast.data.preprocess import Pipeline, Resize, Scale
from holdfast.probes.bench import Bench
from holdfast.probes.corruptions import Corruptions
from holdfast.probes.severity import breaking_severity, common_errors, corruption_errors, crossing

FRAMES = torch.stack([torch.from_numpy(photo(i, 32, 40)) for i in range(6)]).permute(0, 3, 1, 2).contiguous()
FRAMES = (FRAMES.float() * torch.tensor([0.5, 0.7, 0.9, 1.0, 1.2, 1.4]).view(-1, 1, 1, 1)).clamp(0, 255).to(torch.uint8)
TRAIN = {"train": Pipeline(steps=(Scale(),))}
SMALL = {"train": Pipeline(steps=(Resize(size=(16, 20)), Scale()))}


def found(probe: Corruptions, bench: Bench) -> dict[tuple[str, str], Measurement]:
    rows = list(probe.run(bench))
    table = {(m.row.condition, m.row.metric): m for m in rows}
    assert len(table) == len(rows), "two rows of one name"
    return table


def test_rows_are_the_metrics_of_images_corrupted_by_hand() -> None:
    bench = bench_of(FRAMES, TRAIN)
    rows = found(Corruptions(corruptions=("brightness", {"fog": {"table": "cifar"}}), severities=(1, 4), seed=3), bench)
    for name, options, severity in (("brightness", {}, 4), ("fog", {"table": "cifar"}, 1)):
        damaged = corrupted(FRAMES.float(), build("corruption", {name: options}), severity, seed=3) / 255
        outputs, labels = bench.model(damaged), bench.model(FRAMES / 255).argmax(1)
        expected = (outputs.argmax(1) == labels).double()
        row = rows[f"{name} severity={severity}", "accuracy"]
        assert row.values.tolist() == expected.tolist()
        assert row.row.value == pytest.approx(float(expected.mean()))
        assert rows[f"{name} severity={severity}", "failed"].values.tolist() == (1 - expected).tolist()
        assert rows[f"{name} severity={severity}", "flipped"].values.tolist() == (1 - expected).tolist()


def test_a_normalised_leaf_is_damaged_in_grey_levels() -> None:
    normalised = {"train": Pipeline(steps=(Scale(mean=(0.5,), std=(0.25,)),))}
    space = InputSpace({"image": Leaf(mean=0.5, std=0.25)})
    probe = Corruptions(corruptions=("gaussian_noise", "contrast"), severities=(2,))

    class Undone(Brightness):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image * 0.25 + 0.5)

    plain = found(probe, bench_of(FRAMES, TRAIN))
    shifted = found(probe, bench_of(FRAMES, normalised, space=space, model=Undone()))
    assert {key: m.values.tolist() for key, m in shifted.items()} == {
        key: m.values.tolist() for key, m in plain.items()
    }


def test_at_the_sensor_the_pipeline_comes_after_the_damage() -> None:
    bench = bench_of(FRAMES, SMALL)
    rows = found(Corruptions(corruptions=("pixelate", "resample"), severities=(5,), at="sensor"), bench)
    damaged = corrupted(FRAMES, build("corruption", "pixelate"), 5)
    outputs = bench.model(SMALL["train"]({"image": damaged})["image"])
    assert (
        rows["pixelate severity=5", "failed"].values.tolist()
        == (outputs.argmax(1) != bench.model(SMALL["train"]({"image": FRAMES})["image"]).argmax(1)).double().tolist()
    )
    assert ("resample severity=5", "accuracy") in rows


def test_resample_is_passed_over_where_nothing_is_resized() -> None:
    for probe, pipelines in (
        (Corruptions(corruptions=("deploy",), severities=(1,)), SMALL),
        (Corruptions(corruptions=("deploy",), severities=(1,), at="sensor"), TRAIN),
    ):
        named = {condition.split()[0].rstrip(":") for condition, _ in found(probe, bench_of(FRAMES, pipelines))}
        assert named == {"chroma", "codec", "colour", "geometry", "numeric", "sensor", "tone"}


def test_where_it_breaks_is_told_per_sample_and_for_the_limit() -> None:
    rows = found(Corruptions(corruptions=("brightness",), limit=0.5), bench_of(FRAMES, TRAIN))
    failed = [rows[f"brightness severity={s}", "failed"].values for s in range(1, 6)]
    expected = [next((s for s in range(1, 6) if failed[s - 1][i]), 6) for i in range(len(FRAMES))]
    assert rows["brightness", "breaking_severity"].values.tolist() == expected
    shares = [0.0, *(float(f.mean()) for f in failed)]
    crossed = crossing(range(6), shares, 0.5)
    assert 0 < crossed < 5
    assert rows["brightness: failed = 0.5", "limit_severity"].row.value == pytest.approx(crossed)
    assert rows["brightness: failed = 0.5", "limit_severity"].row.n == 1


def test_a_task_that_does_not_say_what_failed_has_its_metrics_and_a_limit_on_one() -> None:
    bench = bench_of(FRAMES, TRAIN, failed=None)
    rows = found(Corruptions(corruptions=("brightness",)), bench)
    assert {metric for _, metric in rows} == {"accuracy", "flipped"}
    rows = found(Corruptions(corruptions=("brightness",), limit_metric="accuracy", limit=0.6), bench)
    assert ("brightness: accuracy = 0.6", "limit_severity") in rows
    with pytest.raises(InputError, match=r"no metric 'acuracy'.*accuracy"):
        list(Corruptions(corruptions=("brightness",), limit_metric="acuracy").run(bench))


def test_moved_pixels_are_flagged_where_targets_hold_places() -> None:
    probe = Corruptions(corruptions=("elastic_transform", "geometry", "contrast"), severities=(1,))
    for geometric in (False, True):
        rows = found(probe, bench_of(FRAMES, TRAIN, geometric=geometric))
        flagged = {
            condition.split()[0].rstrip(":") for (condition, _), m in rows.items() if "labels_would_move" in m.row.flags
        }
        assert flagged == ({"elastic_transform", "geometry"} if geometric else set())


def test_the_common_errors_leave_drawn_frost_out() -> None:
    rows = found(Corruptions(imagenet=True, samples=3), bench_of(FRAMES, TRAIN))
    assert ("frost (procedural) severity=1", "accuracy") in rows
    mean = rows["14 corruptions x 5 severities (frost left out)", "mean_corruption_error"]
    each = [m.values for (condition, metric), m in rows.items() if metric == "failed" and "frost" not in condition]
    assert len(each) == 70
    assert mean.values.tolist() == pytest.approx(sum(each) / 70)
    assert not [metric for _, metric in rows if "mce" in metric]


def test_a_second_subject_is_measured_too_and_says_what_executed() -> None:
    twin = Subject(backend="toy", precision="fp16", executed="fp32", run=lambda x: -bench.model(x))
    bench = bench_of(FRAMES, TRAIN, subjects=lambda: [twin])
    rows = list(Corruptions(corruptions=("contrast",), severities=(1,), subjects=("toy:fp16",)).run(bench))
    assert {m.row.subject for m in rows} == {"eager:fp32", "toy:fp16"}
    assert all(("precision_not_executed" in m.row.flags) == (m.row.backend == "toy") for m in rows)


def test_unknown_names_are_refused() -> None:
    bench = bench_of(FRAMES, TRAIN)
    with pytest.raises(InputError, match=r"no corruption 'glas_blur' .*glass_blur"):
        list(Corruptions(corruptions=("glas_blur",)).run(bench))
    with pytest.raises(InputError, match="no split 'reprot'"):
        list(Corruptions(split="reprot").run(bench))


def test_the_plug_ins_are_named_for_the_key_of_the_cell() -> None:
    assert ("corruption", "frost") in Corruptions().plug_ins
    assert len(Corruptions(corruptions=("imagenet_c",)).plug_ins) == 15
    assert set(COMMON) == {name for _, name in Corruptions().plug_ins}


# --- the numbers of the papers --------------------------------------------------------------------------

RESNET50 = {
    "gaussian_noise": 29.29, "shot_noise": 27.03, "impulse_noise": 23.81, "defocus_blur": 38.75, "glass_blur": 26.79,
    "motion_blur": 38.67, "zoom_blur": 36.24, "snow": 32.53, "frost": 38.14, "fog": 45.83, "brightness": 68.02,
    "contrast": 39.06, "elastic_transform": 45.25, "pixelate": 44.79, "jpeg_compression": 53.41,
}  # fmt: skip
"""Published top-1 accuracy of torchvision's ResNet-50 on ImageNet-C in per cent, mean over severities; clean 76.13."""


def test_alexnets_errors_give_the_published_mce_of_a_resnet50() -> None:
    failed = {name: dict.fromkeys(range(1, 6), torch.tensor([1 - top1 / 100])) for name, top1 in RESNET50.items()}
    errors = corruption_errors(torch.tensor([1 - 0.7613]), failed)
    assert errors is not None
    assert 100 * float(errors["mce"]) == pytest.approx(76.70, abs=0.01)
    assert 100 * float(errors["relative_mce"]) == pytest.approx(105.0, abs=0.5)


def test_mean_errors_by_hand() -> None:
    failed = {name: {s: torch.tensor([s >= 3, False]) for s in range(1, 6)} for name in COMMON}
    label, mean = common_errors(failed) or ("", torch.tensor(0))
    assert (label, mean.tolist()) == ("15 corruptions x 5 severities", pytest.approx([0.6, 0.0]))
    errors = corruption_errors(torch.tensor([False, True]), failed) or {}
    expected = sum(3 / sum(ALEXNET_ERRORS[name]) for name in COMMON) / 15
    assert errors["mce"].tolist() == pytest.approx([expected, 0.0])
    relative = sum(-5 / (sum(ALEXNET_ERRORS[name]) - 5 * ALEXNET_CLEAN_ERROR) for name in COMMON) / 15
    assert errors["relative_mce"].tolist()[1] == pytest.approx(relative)
    assert common_errors({name: failed[name] for name in COMMON[:-1]}) is None
    assert corruption_errors(torch.tensor([False, True]), {**failed, "fog": {1: failed["fog"][1]}}) is None


def test_breaking_severity_and_crossing_by_hand() -> None:
    failed = {1: torch.tensor([False, False, True, False]), 3: torch.tensor([True, False, False, False])}
    assert breaking_severity(torch.tensor([False, False, False, True]), failed).tolist() == [3, 4, 1, 0]
    assert crossing([0, 1, 3], [0.1, 0.3, 0.7], 0.5) == pytest.approx(2.0)
    assert crossing([0, 1, 3], [0.9, 0.7, 0.1], 0.4) == pytest.approx(2.0)
    assert crossing([0, 1, 3], [0.1, 0.3, 0.4], 0.5) == float("inf")
    assert crossing([0, 1, 3], [0.5, 0.1, 0.1], 0.5) == 0.0
