"""Averages and BatchNorm statistics under DDP and FSDP2, on two gloo processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import two_ranks
from two_processes import on_two_ranks

pytestmark = pytest.mark.slow  # two more processes that import torch


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return on_two_ranks(Path(two_ranks.__file__), tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", list(two_ranks.AVERAGES))
def test_ddp_gives_what_one_process_gives(found: dict[str, Any], name: str) -> None:
    assert found["ddp"][name] < 1e-6


@pytest.mark.parametrize("name", list(two_ranks.AVERAGES))
def test_fsdp_gives_what_one_process_gives_and_resumes(found: dict[str, Any], name: str) -> None:
    assert found["fsdp"][name] < 1e-6


def test_every_rank_holds_its_own_shard_only(found: dict[str, Any]) -> None:
    assert found["fsdp"]["local_share"] < 0.65  # uneven rows


def test_sharded_averages_load_into_the_sharded_model(found: dict[str, Any]) -> None:
    assert found["fsdp"]["loads"] == 0.0


def test_sharding_after_the_start_is_refused(found: dict[str, Any]) -> None:
    assert "start the average after the model has its device and its sharding" in found["fsdp"]["sharded_later"]


def test_statistics_are_summed_over_ranks_by_samples(found: dict[str, Any]) -> None:
    assert found["statistics"]["mean"] < 1e-5
    assert found["statistics"]["var"] < 1e-4
