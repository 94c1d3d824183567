from __future__ import annotations

import torch
from scenes import scene

from holdfast.core.contracts import Metric, Task
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.preprocess import NV12, Gamma, Pipeline, Resize, Scale
from holdfast.data.table import Table
from holdfast.probes.bench import Bench, RunLabel
from holdfast.probes.input_drift import InputDrift

FRAMES = torch.stack([torch.from_numpy(scene(seed)[:96, :128].copy()).permute(2, 0, 1) for seed in range(3)])
TRAIN = Pipeline(steps=(Scale(),))
PIPELINES = {
    "train": TRAIN, "same": TRAIN, "tone": Pipeline(steps=(Gamma(gamma=1.2), Scale())),
    "small": Pipeline(steps=(Resize(size=(48, 64)), Scale())),
    "chroma": Pipeline(steps=(NV12(), Scale())),
}  # fmt: skip


def test_the_difference_of_two_pipelines_is_named_with_its_share() -> None:
    error = Metric(name="e", unit="1", compute=lambda o, b: o)
    task = Task(name="t", build_model=torch.nn.Identity, data=lambda split: [], loss=error.compute, metrics=(error,),
                space=InputSpace({"image": Leaf()}), pipelines=PIPELINES)  # fmt: skip
    label = RunLabel(study="s", recipe="r", init_seed=0, order_seed=0, weights="last")

    def open_table(split: str, pipeline: str) -> Table | None:
        return Table(PIPELINES[pipeline]({"image": FRAMES})) if split == "report" else None

    bench = Bench(label=label, task=task, model=torch.nn.Identity(), open_table=open_table, open_subjects=list,
                  preprocessing=list(PIPELINES))  # fmt: skip
    found = {(m.row.preprocessing, m.row.condition): m.row.value for m in InputDrift(samples=2).run(bench)}
    assert found["tone", "cause=gamma gamma"] > 0.8
    assert found["tone", "remaining"] < 0.2
    assert any(pipeline == "chroma" and condition.startswith("cause=chroma") for pipeline, condition in found)
    assert {condition for pipeline, condition in found if pipeline == "same"} == {"remaining"}
    assert not any(pipeline == "small" for pipeline, _ in found), "pictures of another size cannot be compared"
    assert list(InputDrift(split="absent").run(bench)) == []
