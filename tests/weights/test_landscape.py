"""Landscape measures on losses whose answers are known: quadratics, and networks without a scale."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from holdfast.core.errors import InputError, NoEffectError
from holdfast.weights.landscape import hessian_top, radius_of_rise, random_direction, ray, sam_sharpness


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quadratic(eigenvalues: list[float], seed: int = 0):
    """``x' H x / 2`` with given eigenvalues, over two parameters."""
    n = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(n, n, generator=generator(seed), dtype=torch.float64))
    hessian = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T

    def loss(w) -> Tensor:
        x = torch.cat([w["a"].flatten(), w["b"]])
        return x @ hessian @ x / 2

    return loss, hessian


def point(n: int, scale: float = 1.0) -> dict[str, Tensor]:
    x = scale * torch.randn(n, generator=generator(9), dtype=torch.float64)
    return {"a": x[:4].view(2, 2), "b": x[4:]}


@pytest.mark.parametrize("eigenvalues", [
    [5.0, 3, 2, 1, 0.5, 0.1], [4.0, 1, 1, 0, 0, -9], [0.5, 0.2, 0.1, 0, -1, -2], [-1.0, -2, -3, -4, -5, -6],
])  # fmt: skip
def test_the_largest_eigenvalue_is_found_also_beside_larger_negative_ones(eigenvalues: list[float]) -> None:
    loss, _ = quadratic(eigenvalues)
    found = hessian_top(loss, point(6), generator(), iterations=500, tolerance=1e-9)
    assert found.converged
    assert found.value == pytest.approx(max(eigenvalues), abs=1e-3)


def test_a_linear_loss_has_no_curvature_and_too_few_iterations_say_so() -> None:
    flat = hessian_top(lambda w: w["a"].sum() + w["b"].sum(), point(6), generator())
    assert (flat.value, flat.converged) == (0.0, True)
    loss, _ = quadratic([5.0, 4.99, 4.98, 1, 1, 1])
    short = hessian_top(loss, point(6), generator(), iterations=2, tolerance=1e-9)
    assert (short.iterations, short.converged) == (2, False)


def test_sam_sharpness_is_that_of_one_step_up() -> None:
    loss, hessian = quadratic([5.0, 3, 2, 1, 0.5, 0.1])
    w = point(6)
    x = torch.cat([w["a"].flatten(), w["b"]])
    g = hessian @ x
    step = 0.1 * g / g.norm()
    assert sam_sharpness(loss, w, rho=0.1) == pytest.approx(float(g @ step + step @ hessian @ step / 2))
    t = x.abs() + 0.01
    step = 0.1 * t**2 * g / (t * g).norm()
    assert sam_sharpness(loss, w, rho=0.1, adaptive=True) == pytest.approx(float(g @ step + step @ hessian @ step / 2))
    assert sam_sharpness(loss, {k: torch.zeros_like(v) for k, v in w.items()}) == 0.0


def test_a_plain_ray_has_length_one_and_rises_as_the_quadratic_does() -> None:
    loss, hessian = quadratic([5.0, 3, 2, 1, 0.5, 0.1])
    w = point(6)
    d = random_direction(w, generator(), filter_normalised=False)
    flat, x = torch.cat([d["a"].flatten(), d["b"]]), torch.cat([w["a"].flatten(), w["b"]])
    assert float(flat.norm()) == pytest.approx(1.0)
    expected = [float(s * x @ hessian @ flat + s * s * flat @ hessian @ flat / 2) for s in (0.5, 2.0)]
    assert ray(loss, w, d, [0.5, 2.0]) == pytest.approx(expected)


def test_a_filter_normalised_ray_does_not_depend_on_the_scale_of_the_weights() -> None:
    def loss(w) -> Tensor:  # a network without a scale, as before a batch normalisation
        rows = w["a"] / w["a"].norm(dim=1, keepdim=True)
        return (rows @ torch.tensor([1.0, -2.0], dtype=torch.float64)).square().sum() + 0 * w["b"].sum()

    rises = []
    for scale in (1.0, 10.0):
        w = point(6, scale)
        d = random_direction(w, generator(), filter_normalised=True)
        torch.testing.assert_close(d["a"].norm(dim=1), w["a"].norm(dim=1))
        assert not d["b"].any()
        rises.append(ray(loss, w, d, [0.2, 0.4]))
    assert rises[0] == pytest.approx(rises[1])


def test_the_radius_is_interpolated() -> None:
    assert radius_of_rise([1.0, 2.0, 4.0], [0.02, 0.05, 0.15]) == pytest.approx(3.0)
    assert radius_of_rise([1.0], [0.2]) == pytest.approx(0.5)
    assert radius_of_rise([1.0, 2.0], [0.0, 0.05]) == math.inf
    assert radius_of_rise([1.0, 2.0], [0.0, math.nan]) == 2.0


def test_a_loss_without_parameters_is_refused() -> None:
    with pytest.raises(NoEffectError, match="depends on no parameter"):
        hessian_top(lambda w: torch.zeros(()), point(6), generator())
    with pytest.raises(InputError, match="rho 0"):
        sam_sharpness(lambda w: w["a"].sum(), point(6), rho=0)
