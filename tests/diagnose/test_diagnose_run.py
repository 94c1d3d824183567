"""Conduct: a crash is an entry with its reason, memory halves the batch, an interruption loses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted_task import SIZES

from holdfast.core.errors import InputError
from holdfast.diagnose import run as runner
from holdfast.diagnose.order import Order
from holdfast.diagnose.page import page
from holdfast.diagnose.patient import open_patient
from holdfast.diagnose.plan import make_plan
from holdfast.diagnose.run import Diagnosis, Entry, diagnose
from holdfast.diagnose.told import headline, text, to_json
from holdfast.study.workers import Failure

Orders = Callable[..., Order]
FEW = ("clean", "deployment", "adversarial")
EAGER = ("eager:fp32",)


def states(found: Diagnosis) -> dict[str, str]:
    return {entry.probe: entry.state for entry in found.entries}


def entry(found: Diagnosis, probe: str) -> Entry:
    return next(entry for entry in found.entries if entry.probe == probe)


@pytest.fixture
def order(order_of: Orders) -> Order:
    return order_of(task={"vehicle": "resize"}, subjects=EAGER, probes=FEW, limit=48)


def test_findings_come_by_damage_with_strength_and_what_ships(order: Order) -> None:
    found, _ = diagnose(order, workers=0, quiet=True)
    assert states(found) == {"clean": "ran", "deployment": "ran", "adversarial": "ran"}
    damages = [finding.damage for finding in found.findings]
    assert damages == sorted(damages, reverse=True)
    attack = next(finding for finding in found.findings if finding.name == "pgd")
    assert [strength for strength, _ in attack.curve] == [0.25, 0.5, 1.0, 2.0]
    shipped = next(finding for finding in found.findings if finding.kind == "pipeline")
    assert shipped.name == "vehicle"
    assert shipped.breaks
    assert shipped.interval is not None
    assert shipped.interval.low <= shipped.damage <= shipped.interval.high
    assert shipped.groups == 24
    assert found.exit_code == 1
    assert headline(found).startswith("As it ships it loses")


def test_what_was_found_is_told_as_text_json_and_page(order: Order) -> None:
    found, _ = diagnose(order, workers=0, quiet=True)
    record = json.loads(json.dumps(to_json(found), allow_nan=False))
    assert record["findings"][0]["damage"] == found.findings[0].damage
    assert record["exit_code"] == 1
    assert "treatments" not in to_json(found, treated=False)
    said, html = text(found), page(found)
    assert "under the pipeline vehicle" in said
    assert f"undisturbed {found.findings[0].baseline:.3g}" in said
    assert "what to do" in said
    assert "what to do" not in text(found, treated=False)
    assert html.count("<svg") == sum(len(finding.curve) > 1 for finding in found.findings)
    for secret in (str(order.out), str(order.path.parent), "http://", "https://"):
        assert secret not in html
        assert secret not in json.dumps(record)


def test_a_probe_that_raises_is_an_entry_and_the_others_go_on(order_of: Orders) -> None:
    found, _ = diagnose(order_of(task={"poison": "raise"}, subjects=EAGER, probes=FEW), workers=0, quiet=True)
    assert states(found) == {"clean": "ran", "deployment": "ran", "adversarial": "failed"}
    assert entry(found, "adversarial").reason == "ZeroDivisionError: the loss of this task has a fault"
    assert found.exit_code == 3


@pytest.mark.slow
def test_a_probe_whose_process_dies_is_an_entry_and_the_others_go_on(order_of: Orders) -> None:
    found, _ = diagnose(order_of(task={"poison": "kill"}, subjects=EAGER, probes=FEW), workers=2, quiet=True)
    assert states(found) == {"clean": "ran", "deployment": "ran", "adversarial": "failed"}
    assert entry(found, "adversarial").reason.startswith("its process died")


def test_out_of_memory_halves_the_batch_and_gives_the_same_rows(order_of: Orders) -> None:
    probes = ("clean", "deployment")
    plenty, _ = diagnose(order_of(subjects=EAGER, probes=probes), workers=0, quiet=True)
    order = order_of(task={"most": 20}, subjects=EAGER, probes=probes)
    found, _ = diagnose(replace(order, out=order.out.with_name("scarce")), workers=0, quiet=True)
    assert set(states(found).values()) == {"ran"}
    assert any("pieces of 16" in note for note in entry(found, "clean").notes)
    assert [row.condition for row in found.rows] == [row.condition for row in plenty.rows]
    np.testing.assert_allclose([row.value for row in found.rows], [row.value for row in plenty.rows], atol=1e-6)


def test_an_interrupted_diagnosis_goes_on_where_it_was(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    real, begun = runner.run_probe, []

    def interrupted(order: Order, planned: object, *rest: object) -> object:
        begun.append(planned.name)  # type: ignore[attr-defined]  # Planned
        if planned.name == "adversarial":  # type: ignore[attr-defined]  # Planned
            raise KeyboardInterrupt
        return real(order, planned, *rest)  # type: ignore[arg-type]  # as given

    monkeypatch.setattr(runner, "run_probe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        diagnose(order, workers=0, quiet=True)
    assert begun == ["clean", "deployment", "adversarial"]
    begun.clear()
    monkeypatch.setattr(runner, "run_probe", lambda *given: begun.append(given[1].name) or real(*given))
    found, _ = diagnose(order, workers=0, quiet=True)
    assert begun == ["adversarial"]
    assert set(states(found).values()) == {"ran"}


def test_a_quick_look_begins_nothing_when_its_time_is_over(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = replace(order, quick=True, limit=None)
    assert quick.samples == SIZES["report"]
    monkeypatch.setattr("holdfast.diagnose.order.QUICK_SECONDS", -1.0)
    found, _ = diagnose(quick, workers=0, quiet=True)
    assert set(states(found).values()) == {"cut"}
    assert "before it began" in entry(found, "clean").reason
    assert headline(found).startswith("The time was over before anything was found")
    assert found.exit_code == 3


def test_a_probe_that_is_stopped_because_its_time_is_over_was_cut(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Failure(reason="stopped: the time was over", late=True)
    monkeypatch.setattr(runner, "run_jobs", lambda jobs, **_: [(job, late) for job in jobs])
    found, _ = diagnose(order, workers=1, quiet=True)
    assert set(states(found).values()) == {"cut"}


def test_quick_options_are_smaller_and_stay_valid(order_of: Orders) -> None:
    order = order_of(quick=True, probes=("adversarial",))
    planned, skipped = make_plan(order, open_patient(order))
    assert skipped == []
    assert planned[0].options["samples"] == 48
    assert len(planned[0].options["eps"]) == 3


def test_names_that_are_not_there_are_answered_with_the_nearest(order: Order, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'clean'"):
        diagnose(replace(order, probes=("cleen",)), workers=0, quiet=True)
    with pytest.raises(InputError, match="did you mean 'vehicle'"):
        diagnose(replace(order, pipelines=("train", "vehicel")), workers=0, quiet=True)
    with pytest.raises(InputError, match="no split 'nowhere'"):
        diagnose(replace(order, split="nowhere"), workers=0, quiet=True)
    with pytest.raises(InputError, match="no such file"):
        diagnose(replace(order, path=tmp_path / "absent.pt"), workers=0, quiet=True)
