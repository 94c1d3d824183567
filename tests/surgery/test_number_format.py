from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from number_format_twin import block_float, fixed_point

from holdfast.core.errors import InputError
from holdfast.surgery.number_format import BlockFloat, FixedPoint

numbers = st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=12)


@given(numbers, st.integers(2, 16), st.integers(0, 12))
@settings(deadline=None)
def test_fixed_point_equals_the_twin(values: list[float], bits: int, fraction_bits: int) -> None:
    x = torch.tensor(values)
    nearest = FixedPoint(bits=bits, fraction_bits=fraction_bits, rounding="nearest").quantise(x)
    assert nearest.tolist() == [fixed_point(v, bits, fraction_bits, None) for v in x.tolist()]


@given(numbers, st.integers(2, 16))
@settings(deadline=None)
def test_block_float_equals_the_twin(values: list[float], bits: int) -> None:
    x = torch.tensor(values)
    nearest = BlockFloat(bits=bits, rounding="nearest").quantise(x)
    assert nearest.tolist() == block_float(x.tolist(), bits, None)


@pytest.mark.parametrize("number", [FixedPoint(), BlockFloat(), BlockFloat(bits=5)])
def test_stochastic_rounding_equals_the_twin_draw_by_draw(number: FixedPoint | BlockFloat) -> None:
    x = torch.randn(64)
    torch.manual_seed(5)
    got = number.quantise(x)
    torch.manual_seed(5)
    draws = torch.rand_like(x).tolist()
    if isinstance(number, FixedPoint):
        expected = [fixed_point(v, 8, 6, u) for v, u in zip(x.tolist(), draws, strict=True)]
    else:
        expected = block_float(x.tolist(), number.bits, draws)
    torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("number", [FixedPoint(bits=12, fraction_bits=6), BlockFloat(bits=8)])
def test_stochastic_rounding_is_unbiased(number: FixedPoint | BlockFloat) -> None:
    torch.manual_seed(0)
    x = torch.linspace(-1.0, 1.0, 21)
    mean = torch.stack([number.quantise(x) for _ in range(4000)]).mean(0)
    step = 2.0**-6
    # The error of one draw is below a step, so the mean's is below 5 step / sqrt(4000); the extremes saturate.
    assert float((mean - x)[1:-1].abs().max()) < 5 * step / 4000**0.5


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("blocks", ["tensor", "first", "second"])
def test_representable_numbers_stay(rounding: str, blocks: str) -> None:
    number = BlockFloat(blocks=blocks, rounding=rounding)
    # Positive values: a block whose extreme is -2^(bits-1) steps has an exponent one above the one it was made with.
    once = number.quantise(torch.rand(3, 4, 5))
    assert torch.equal(number.quantise(once), once)


def test_blocks_have_their_own_exponents() -> None:
    x = torch.tensor([[1000.0, 1.0], [1.0, 0.001]])
    together = BlockFloat(rounding="nearest").quantise(x)
    rows = BlockFloat(rounding="nearest", blocks="first").quantise(x)
    columns = BlockFloat(rounding="nearest", blocks="second").quantise(x)
    assert together[1, 0] == 0.0
    assert rows[0, 1] == 0.0
    assert rows[1, 0] == pytest.approx(1.0, rel=0.01)
    assert columns[0, 1] == pytest.approx(1.0, rel=0.01)
    assert columns[1, 0] == 0.0


def test_vectors_are_one_block() -> None:
    x = torch.tensor([1000.0, 0.001])
    assert BlockFloat(blocks="first", rounding="nearest").quantise(x)[1] == 0.0


@given(st.integers(0, 1000), st.integers(3, 12))
@settings(deadline=None, max_examples=30)
def test_the_error_is_below_one_step_of_the_block(seed: int, bits: int) -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(seed))
    step = 2.0 ** (torch.log2(x.abs().max()).floor() - bits + 2)
    assert float((BlockFloat(bits=bits).quantise(x) - x).abs().max()) <= float(step) * 1.0001


def test_extremes_are_harmless() -> None:
    for value in (0.0, 1e-38, 1e38, -1e38):
        got = BlockFloat(rounding="nearest").quantise(torch.tensor([value, 0.0]))
        assert bool(got.isfinite().all())
        assert float(got[0]) == pytest.approx(value, rel=0.02)
    assert BlockFloat().quantise(torch.zeros(0)).numel() == 0
    assert BlockFloat(rounding="nearest").quantise(torch.tensor(0.3)).shape == ()


def test_rounding_makes_a_new_tensor() -> None:
    x = torch.full((4,), 0.123)
    for number in (FixedPoint(), BlockFloat()):
        number.quantise(x)
    assert torch.equal(x, torch.full((4,), 0.123))


@pytest.mark.parametrize("wrong", [{"bits": 1}, {"bits": 25}, {"rounding": "up"}])
def test_impossible_formats_are_refused(wrong: dict[str, object]) -> None:
    for kind in (FixedPoint, BlockFloat):
        with pytest.raises(InputError):
            kind(**wrong)
