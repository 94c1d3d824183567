"""Every method that is found on two gloo processes: DDP is one process with the doubled batch, FSDP2 is DDP or no.

Normalisation is in eval mode, shards are equal, and partners stay inside a rank.
"""

from __future__ import annotations

from pathlib import Path

import found_methods
import methods_two_ranks
import pytest
from two_processes import on_two_ranks

SCRIPT = Path(methods_two_ranks.__file__)
QUICK = ("adversarial", "freelb", "regmixup", "rotation", "sam")
"""One of each kind: attacked views, hand-over, partners, a head, an ascent in the weights. The rest is slow."""
REFUSED_UNDER_FSDP2 = {"awp", "freelb", "sam", "weight_noise", "yopo"}
"""They hand gradients over or move weights, which a sharded model does not bear; each says what to do instead."""
SLOW = [name for name in found_methods.ALL if name not in QUICK]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return on_two_ranks(SCRIPT, tmp_path_factory.mktemp("quick"), "ddp", *QUICK)["ddp"]


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    return on_two_ranks(SCRIPT, tmp_path_factory.mktemp("every"), "both", *found_methods.ALL)


def assert_equals_one_process(found):
    """With both shards side by side; and where nothing is drawn, also one that knows nothing of ranks."""
    assert found["moved"] > 1e-3
    assert found["gap"] < 1e-6
    assert found["drew"] or found["doubled"] < 1e-6


@pytest.mark.parametrize("name", QUICK)
def test_ddp_equals_one_process_with_the_doubled_batch(quick, name):
    assert_equals_one_process(quick[name])


def test_some_of_them_draw_nothing(quick):
    assert not quick["adversarial"]["drew"]
    assert not quick["sam"]["drew"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_ddp_equals_one_process_with_the_doubled_batch_for_the_others(every, name):
    assert_equals_one_process(every["ddp"][name])


@pytest.mark.slow
@pytest.mark.parametrize("name", found_methods.ALL)
def test_fsdp2_equals_ddp_or_is_refused_with_a_reason(every, name):
    found = every["fsdp"][name]
    assert "crashed" not in found, found
    if "refused" in found:
        assert name in REFUSED_UNDER_FSDP2
        assert found["refused"].endswith(")"), "no way out is named"
        pytest.skip(found["refused"])
    assert found["moved"] > 1e-3
    assert found["second"] < 1e-6  # the first step's weights are gathered before anything could go stale
    assert found["gap"] < 1e-6
    assert found["forward"] < 1e-6
