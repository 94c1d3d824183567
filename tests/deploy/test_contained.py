from __future__ import annotations

import pytest
import torch
from crashing_backend import Crashing, build

from holdfast.core.contracts import Artefact, PrecisionPlan
from holdfast.core.errors import BackendError
from holdfast.deploy.contained import ContainedSession, call_contained

ARTEFACT = Artefact(backend="crashing", plan=PrecisionPlan(), key="")
FINE, REFUSE, ABORT, HANG = (torch.tensor([[float(i), 1.0]]) for i in range(4))


def test_errors_inside_leave_the_session_alive_and_a_crash_is_an_error_with_its_signal() -> None:
    session = ContainedSession(Crashing(), ARTEFACT, timeout_s=120)
    assert session.executed_precision() == "fp32"
    assert torch.equal(session(FINE)["doubled"], FINE * 2)
    with pytest.raises(BackendError, match=r"engine: not this input \(another one\)"):
        session(REFUSE)
    assert torch.equal(session(FINE)["doubled"], FINE * 2)
    with pytest.raises(BackendError, match="crashed: signal SIGABRT"):
        session(ABORT)
    with pytest.raises(BackendError, match="closed"):
        session(FINE)
    session.close()


def test_a_hang_ends_at_the_time_limit() -> None:
    session = ContainedSession(Crashing(), ARTEFACT, timeout_s=120)
    session._timeout_s = 0.5
    with pytest.raises(BackendError, match=r"did not answer within 0\.5 s"):
        session(HANG)
    session.close()


def test_building_is_contained_too() -> None:
    with pytest.raises(BackendError, match="crashed: signal SIGABRT"):
        call_contained(build, "abort")
    with pytest.raises(BackendError, match=r"ValueError: something inside \(_do, line"):
        call_contained(build, "raise")
