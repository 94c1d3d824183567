from __future__ import annotations

import itertools

import numpy as np
import pytest

from holdfast.core.errors import InputError
from holdfast.select.components import variance_components

LAWS, SEEDS, ORDERS, METHODS = range(4), range(5), range(2), range(2)
DESIGN = list(itertools.product(LAWS, SEEDS, ORDERS, METHODS))
FACTORS = {name: [row[i] for row in DESIGN] for i, name in enumerate(("law", "init seed", "order", "method"))}
NESTED = {"init seed": "law"}


def drawn(rng: np.random.Generator, law: float, seed: float, order: float, method: float, rest: float) -> np.ndarray:
    """Values with these standard deviations of the effects."""
    effects = [law * rng.normal(size=4), order * rng.normal(size=2), method * rng.normal(size=2)]
    seeds = seed * rng.normal(size=(4, 5))
    return np.array([
        effects[0][a] + seeds[a, i] + effects[1][o] + effects[2][m] + rest * rng.normal() for a, i, o, m in DESIGN
    ])  # fmt: skip


def test_one_way_is_the_textbook() -> None:
    """Three levels of two values by hand."""
    groups, rest = variance_components([1, 3, 5, 7, 5, 7], {"group": list("aabbcc")})
    # means 2, 6, 6; grand 14/3: SS between = 2 (64/9 + 16/9 + 16/9) = 64/3, over 2 dof.
    assert groups.variance.estimate == pytest.approx((32 / 3 - 2) / 2)
    assert (rest.variance.estimate, rest.dof, groups.dof) == (pytest.approx(2.0), 3, 2)
    assert groups.share == pytest.approx(groups.variance.estimate / (groups.variance.estimate + 2))
    assert groups.deviation.estimate == pytest.approx(groups.variance.estimate**0.5)


def test_on_average_the_estimates_are_the_truth() -> None:
    rng = np.random.default_rng(0)
    runs = [variance_components(drawn(rng, 3, 2, 2, 2, 1), FACTORS, nested=NESTED) for _ in range(1500)]
    for i, truth in enumerate((9, 4, 4, 4, 1)):
        assert np.mean([run[i].variance.estimate for run in runs]) == pytest.approx(truth, rel=0.2), runs[0][i].name


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    runs = [variance_components(drawn(rng, 1, 1, 0.5, 0.5, 1), FACTORS, nested=NESTED) for _ in range(1500)]
    for i, truth in enumerate((1, 1, 0.25, 0.25, 1)):
        held = np.mean([run[i].variance.low <= truth <= run[i].variance.high for run in runs])
        assert 0.93 <= held <= 0.985, (runs[0][i].name, held)


def test_a_nested_seed_is_not_taken_for_its_law() -> None:
    rng = np.random.default_rng(2)
    runs = [variance_components(drawn(rng, 0, 2, 0, 0, 0.1), FACTORS, nested=NESTED) for _ in range(300)]
    assert np.mean([run[0].variance.low > 0 for run in runs]) < 0.05  # the law has no effect
    crossed = [variance_components(drawn(rng, 0, 2, 0, 0, 0.1), FACTORS) for _ in range(300)]
    assert np.mean([run[0].variance.low > 0 for run in crossed]) > 0.1  # as if seed 3 were one thing in all laws


def test_scale_and_shift() -> None:
    x = drawn(np.random.default_rng(3), 1, 1, 1, 1, 1)
    plain, other = (variance_components(y, FACTORS, nested=NESTED) for y in (x, 10 * x + 7))
    for a, b in zip(plain, other, strict=True):
        assert (b.variance.high, b.share) == (pytest.approx(100 * a.variance.high), pytest.approx(a.share))


@pytest.mark.parametrize(
    ("values", "factors", "nested", "message"),
    [
        ([1, 2, 3], {"a": [0, 1]}, {}, "has 2 levels for 3 values"),
        ([1, 2, 3], {"a": [0, 0, 1]}, {}, "do not fill"),
        ([1, 2], {"a": [0, 0]}, {}, "a factor has one level"),
        ([1, 2], {"a": [0, 1]}, {}, "no degree of freedom"),
        ([1, 2, 3, 4], {"a": [0, 0, 1, 1]}, {"b": "a"}, "no factor 'b'"),
        ([1, 2, float("nan"), 4], {"a": [0, 0, 1, 1]}, {}, "NaN"),
    ],
)
def test_mistakes_are_named(values: list[float], factors: dict, nested: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        variance_components(values, factors, nested=nested)
