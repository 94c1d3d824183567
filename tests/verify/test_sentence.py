from __future__ import annotations

import numpy as np

from holdfast.deploy.parity import judge
from holdfast.verify.measure import Compared
from holdfast.verify.sentence import fp16_range


def _part(subject: str, moved: float, *, factor: str = "arithmetic", pipeline: str = "train") -> Compared:
    finding = judge(np.full(4, moved), np.arange(4), name="shift", unit="m", kind="displacement")
    return Compared(
        factor=factor, subject=subject, pipeline=pipeline, split="report", findings=(finding,), flips=None, tensors=()
    )


def test_an_fp16_engine_lies_between_both_ways_to_add() -> None:
    low, high = _part("emulated:fp16", 0.1), _part("emulated:fp16_accumulate", 0.3)
    elsewhere = _part("emulated:fp16", 7.0, pipeline="vehicle"), _part("emulated:fp16", 9.0, factor="both")
    said = "Emulated, fp16 moves shift by 0.1 m with sums in fp32 and by 0.3 m with sums in fp16."
    assert fp16_range([_part("onnxruntime:int8", 5.0), low, high, *elsewhere]) == said
    assert fp16_range([low]) == fp16_range([]) == ""
