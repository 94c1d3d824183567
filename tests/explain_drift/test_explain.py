from __future__ import annotations

import numpy as np
import pytest
from benchmarks.explain_drift.faults import FAULTS, HALF, IMAGENET, LIMITED, Fault, Side, record, replace
from PIL import Image
from scenes import scene

from holdfast.core.errors import InputError
from holdfast.explain_drift.domain import DOMAINS
from holdfast.explain_drift.explain import Explanation, explain

UNSCALED, RAW = scene(1, 192, 272), scene(1, 392, 552)


def families(told: Explanation) -> list[str]:
    return [finding.family for finding in told.findings]


def told(training: Side, vehicle: Side, frame: np.ndarray = UNSCALED) -> Explanation:
    return explain(record(frame, training), record(frame, vehicle))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_entry_of_the_catalogue_is_named(fault: Fault) -> None:
    scale = fault.scales[-1]
    training, vehicle = fault.draw(np.random.default_rng(3), Side(scale=scale))
    assert families(told(training, vehicle, UNSCALED if scale == 1 else RAW)) == [fault.family]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"order": "bgr", "gamma": 1.15}, {"channel_order", "gamma"}),
        ({"crop": (3, -5), "divisor": 256.0}, {"displacement", "divisor"}),
        ({"encode": LIMITED, "chroma": ("box", "nearest"), "order": "bgr"}, {"chroma", "channel_order"}),
        ({"mean": HALF[0], "std": HALF[1], "gamma": 0.9, "layout": "hwc"}, {"normalisation", "gamma", "layout"}),
        ({"encode": LIMITED, "decode": ("709", "limited"), "crop": (0, 2)}, {"colour_matrix", "displacement"}),
        ({"layout": "buffer", "dtype": "float16", "order": "bgr"}, {"layout", "dtype", "channel_order"}),
    ],
)
def test_compositions_are_taken_apart(changes: dict[str, object], expected: set[str]) -> None:
    side = Side(mean=IMAGENET[0], std=IMAGENET[1])
    found = told(side, replace(side, **changes))
    assert set(families(found)) == expected
    assert found.remaining < 0.3


def test_equal_tensors_need_no_cause() -> None:
    found = told(Side(), Side())
    assert found.findings == ()
    assert found.difference == found.remaining == 0


def test_another_frame_is_none_of_these() -> None:
    found = explain(record(UNSCALED, Side()), record(scene(7, 192, 272), Side()))
    assert found.findings == ()
    assert not found.same_frame


def test_what_differs_from_place_to_place_is_none_of_these() -> None:
    y, x = np.mgrid[: UNSCALED.shape[0], : UNSCALED.shape[1]]
    light = 1 - 0.5 * np.exp(-((y - 90) ** 2 + (x - 120) ** 2) / 5000.0)[..., None]
    shadowed = np.rint(UNSCALED * light).astype(np.uint8)
    turned = np.asarray(Image.fromarray(UNSCALED).rotate(3, Image.Resampling.BILINEAR))
    for other in (shadowed, turned):
        found = explain(record(UNSCALED, Side()), record(other, Side()))
        assert found.findings == ()
        assert found.same_frame
        assert "differs from place to place" in found.notes[0]


@pytest.mark.parametrize(
    "moment", [scene(7, 392, 552), np.rint(RAW + np.random.default_rng(0).normal(0, 4, RAW.shape))]
)
def test_a_raw_frame_of_another_moment_is_refused(moment: np.ndarray) -> None:
    other = moment.clip(0, 255).astype(np.uint8)
    training = Side(scale=0.4)
    pair = record(RAW, training), record(RAW, replace(training, kernel="bilinear"))
    with pytest.raises(InputError, match="raw frame: is not the frame of the training side"):
        explain(*pair, raw=other[16:-16, 16:-16])


@pytest.mark.parametrize("spread", [2.0, 8.0])
def test_noise_is_none_of_these(spread: float) -> None:
    noise = np.random.default_rng(0).normal(0, spread, UNSCALED.shape)
    noisy = np.rint(UNSCALED + noise).clip(0, 255).astype(np.uint8)
    found = explain(record(UNSCALED, Side()), record(noisy, Side()))
    assert found.findings == ()
    assert found.same_frame
    assert found.remaining == 1


def test_parameters_come_back() -> None:
    assert "gamma 1.2" in told(Side(), Side(gamma=1.2)).findings[0].detail
    assert "+3.00 px down, -2.00 px right" in told(Side(), Side(crop=(3, -2))).findings[0].detail
    assert told(Side(), Side(encode=LIMITED, decode=("601", "full"))).findings[0].name == "limited_decoded_as_full"
    side = Side(mean=IMAGENET[0], std=IMAGENET[1])
    assert told(side, replace(side, mean=HALF[0], std=HALF[1])).findings[0].name == "normalised_as_half"


def test_shares_and_the_rest_make_the_whole() -> None:
    found = told(Side(), Side(order="bgr", gamma=1.2))
    assert sum(finding.share or 0 for finding in found.findings) + found.remaining == pytest.approx(1, abs=1e-6)
    assert [finding.share for finding in found.findings] == sorted((f.share for f in found.findings), reverse=True)
    assert all(finding.margin > 1 and finding.confidence > 0.9 for finding in found.findings)


def test_what_hides_other_causes_says_so() -> None:
    assert told(Side(), Side(shift=(0.4, 0.3))).findings[0].hides == ("resize_kernel",)
    unlisted = Side(mean=(0.4, 0.5, 0.3), std=(0.2, 0.3, 0.4))
    assert told(Side(), unlisted).findings[0].hides == ("divisor", "rounding")


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic_aa", "bicubic", "area", "lanczos_aa", "asymmetric", "corners"])
def test_the_raw_frame_names_the_kernel(kernel: str) -> None:
    words = {
        "bilinear": "INTER_LINEAR",
        "bicubic_aa": "bicubic with antialiasing",
        "bicubic": "INTER_CUBIC",
        "area": "INTER_AREA",
        "lanczos_aa": "LANCZOS",
        "asymmetric": "asymmetric",
        "corners": "aligned corners",
    }
    training = Side(scale=0.4)
    vehicle = replace(training, kernel=kernel, order="bgr")
    found = explain(record(RAW, training), record(RAW, vehicle), raw=RAW[16:-16, 16:-16])
    assert set(families(found)) == {"channel_order", "resize_kernel"}
    detail = next(finding.detail for finding in found.findings if finding.family == "resize_kernel")
    vehicle_words, training_words = detail.split("in training:")
    assert words[kernel] in vehicle_words
    assert "bilinear with antialiasing" in training_words


def test_the_raw_frame_clears_the_kernel() -> None:
    side = Side(scale=0.4)
    found = explain(record(RAW, side), record(RAW, replace(side, gamma=1.1)), raw=RAW[16:-16, 16:-16])
    assert families(found) == ["gamma"]
    assert found.notes[0].endswith("and so does the vehicle")


def test_nothing_is_changed_and_the_answer_is_the_same_twice() -> None:
    a, b = record(UNSCALED, Side()), record(UNSCALED, Side(gamma=1.1, order="bgr"))
    kept = a.copy(), b.copy()
    assert explain(a, b) == explain(a, b)
    np.testing.assert_array_equal(a, kept[0])
    np.testing.assert_array_equal(b, kept[1])


def test_a_declared_normalisation_is_believed() -> None:
    side = Side(mean=IMAGENET[0], std=IMAGENET[1])
    declared = next(domain for domain in DOMAINS if domain.name == "imagenet")
    a, b = record(UNSCALED // 4 + 90, side), record(UNSCALED // 4 + 90, replace(side, gamma=1.2))
    assert explain(a, b, domain=declared).domain == declared.detail
    assert families(explain(a, b, domain=declared)) == ["gamma"]


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((3, 32, 32)), np.zeros((3, 32, 40)), "record both tensors at the network's input"),
        (np.zeros((2, 3, 32, 32)), np.zeros((2, 3, 32, 32)), "is not one picture of 1 or 3 channels"),
        (np.full((3, 32, 32), np.nan), np.zeros((3, 32, 32)), "training side: holds NaN"),
        (np.zeros((3, 32, 32)), np.zeros((3, 32, 32), dtype=bool), "vehicle: dtype bool is no picture"),
    ],
)
def test_what_cannot_be_compared_is_refused(a: np.ndarray, b: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        explain(a, b)


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (3, 32, 32), (32, 32, 3), (3, 17, 300), (1, 3, 40, 9)])
def test_small_and_odd_pictures_are_taken(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    a = rng.random(shape, dtype=np.float32)
    assert explain(a, a).difference == 0
    explain(a, a * np.float32(0.5))
    explain(np.zeros(shape, np.float32), a)
