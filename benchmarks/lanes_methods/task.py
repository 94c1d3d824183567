"""The lanes task, with as many frames without labels as with: other roads, for the methods that read them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from holdfast.core.contracts import Task
from holdfast.tasks.lanes import lanes

OTHER_ROADS = 1


def with_unlabelled(**options: Any) -> Task:
    """The lanes task and a split ``unlabelled`` of roads that no other split holds."""
    task, others = lanes(**options), lanes(**{**options, "seed": OTHER_ROADS})
    return replace(task, data=lambda split: others.data("train") if split == "unlabelled" else task.data(split))
