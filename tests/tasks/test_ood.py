from __future__ import annotations

from typing import Any

import calibration_twins as twins
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from holdfast.core.errors import InputError
from holdfast.tasks.ood import SCORES, auroc_terms, average_precision_terms, fpr95_terms

SETS = st.lists(st.integers(0, 6), min_size=1, max_size=25)
"""Few different scores, so that ties are common."""


@given(SETS, SETS)
def test_equal_the_twins_also_with_ties(known: list[int], strange: list[int]) -> None:
    a, b = torch.tensor(known).double(), torch.tensor(strange).double()
    assert float(auroc_terms(a, b).mean()) == pytest.approx(twins.auroc(known, strange), abs=1e-12)
    assert float(average_precision_terms(b, a).mean()) == pytest.approx(
        twins.average_precision(strange, known), abs=1e-12
    )
    assert float(fpr95_terms(a, b).mean()) == pytest.approx(twins.fpr95(known, strange), abs=1e-12)


@pytest.mark.filterwarnings("ignore")  # what the oracle says at its import
def test_torchmetrics_agrees() -> None:
    pytest.importorskip("torchmetrics", reason="the oracle torchmetrics is not installed")
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        known, strange = torch.rand(300, generator=g), torch.rand(200, generator=g).sqrt()
        scores = torch.cat([known, strange])
        target = torch.cat([torch.zeros(300), torch.ones(200)]).long()
        assert float(auroc_terms(known, strange).mean()) == pytest.approx(float(binary_auroc(scores, target)), abs=1e-6)
        theirs = float(binary_average_precision(scores, target))
        assert float(average_precision_terms(strange, known).mean()) == pytest.approx(theirs, abs=1e-6)


@given(SETS, SETS)
def test_changing_sides_mirrors_the_area(known: list[int], strange: list[int]) -> None:
    a, b = torch.tensor(known).double(), torch.tensor(strange).double()
    assert float(auroc_terms(a, b).mean() + auroc_terms(b, a).mean()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", SCORES)
def test_uncertain_outputs_are_stranger(name: str) -> None:
    sure, unsure = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[0.1, 0.0, 0.0]])
    assert float(SCORES[name](unsure)) > float(SCORES[name](sure))


def test_scores_are_those_of_the_equations() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    expected: dict[str, Any] = {
        "max_softmax": -p.amax(1), "entropy": -(p * p.log()).sum(1), "energy": -logits.exp().sum(1).log(),
    }  # fmt: skip
    for name, score in SCORES.items():
        torch.testing.assert_close(score(logits), expected[name])


@pytest.mark.parametrize("sets", [(torch.empty(0), torch.ones(2)), (torch.ones(2), torch.tensor([torch.nan]))])
@pytest.mark.parametrize("terms", [auroc_terms, average_precision_terms, fpr95_terms])
def test_what_cannot_be_ranked_is_refused(sets: tuple[Tensor, Tensor], terms: Any) -> None:
    with pytest.raises(InputError, match="of them NaN"):
        terms(*sets)
