from __future__ import annotations

import math

import pytest
import torch

from holdfast.attacks.fgsm import FGSM
from holdfast.data.table import sensor_batch
from holdfast.methods.adversarial import Adversarial
from holdfast.tasks.box_measures import Boxes, average_precision, decode, iou, match, truth
from holdfast.tasks.detection import _targets, detection
from holdfast.tasks.detection_scenes import KINDS, SENSOR_PX, Scenes
from holdfast.train.objective import Objective


def batch_of(task, n=8, split="train"):
    return task.pipelines["train"](sensor_batch(task.data(split), range(n)))


def model_of(task, seed=0):
    torch.manual_seed(seed)
    return task.build_model()


def boxes(rows, kinds=None, scores=None):
    n = len(rows)
    return Boxes(
        torch.tensor(rows, dtype=torch.float32).view(n, 4), torch.tensor(kinds or [0] * n),
        torch.tensor(scores or [1.0] * n),
    )  # fmt: skip


def perfect(batch):
    """Outputs that say exactly what is true."""
    heat, at, counts = _targets(torch.zeros(len(batch["boxes"]), len(KINDS), 16, 16), batch)
    outputs = {"heat": torch.where(heat == 1, 9.0, -9.0), "size": torch.ones(len(heat), 2, 256),
               "offset": torch.zeros(len(heat), 2, 256)}  # fmt: skip
    size = batch["boxes"][..., 2:] - batch["boxes"][..., :2]
    offset = ((batch["boxes"][..., 2:] + batch["boxes"][..., :2]) / 2) % 4 - 2
    for i in range(len(heat)):
        for k in range(int(counts[i].sum())):
            outputs["size"][i, :, at[i, k]] = size[i, k]
            outputs["offset"][i, :, at[i, k]] = offset[i, k]
    return {name: field.view(len(heat), -1, 16, 16) for name, field in outputs.items()}


def test_scenes_are_reproducible_differ_between_splits_and_vary_in_number():
    data = Scenes(0, 60)
    alone, together = data[7], data.__getitems__([3, 7])[1]
    assert all(torch.equal(alone[name], together[name]) for name in alone)
    assert not torch.equal(alone["image"], Scenes(1, 60)[6]["image"])
    assert not torch.equal(alone["image"], Scenes(1, 60)[7]["image"])
    counts = torch.stack([data[i]["counts"].sum() for i in range(60)])
    assert set(counts.tolist()) == {0, 1, 2, 3, 4, 5}
    assert alone["image"].dtype == torch.uint8


def test_boxes_enclose_what_is_drawn():
    drawn = [s for s in (Scenes(0, 60)[i] for i in range(60)) if s["counts"].sum() == 1]
    for sample in drawn:
        left, top, right, bottom = (sample["boxes"][0] * 2.5).round().int().tolist()
        image = sample["image"].float()
        outside = image.clone()
        outside[:, max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = float("nan")
        ground = outside.flatten(1).nanmean(1)
        # Five deviations of the ground's noise: nothing but ground lies outside.
        assert ((outside - ground[:, None, None]).abs().nan_to_num().amax()) < 60
        centre = image[
            :, (top + bottom) // 2 - 2 : (top + bottom) // 2 + 3, (left + right) // 2 - 2 : (left + right) // 2 + 3
        ]
        assert centre.flatten(1).std(1).max() < 20


def test_perfect_outputs_decode_to_the_truth():
    task = detection(scenes=30)
    batch = batch_of(task, n=30)
    outputs = perfect(batch)
    for found, true in zip(decode(outputs), truth(batch), strict=True):
        shown = found.above(0.5)
        assert len(shown.scores) == len(true.scores)
        taken = match(shown, true, 0.99)
        assert sorted(taken.tolist()) == list(range(len(true.scores)))
    ap = task.metrics[1].compute(outputs, batch)
    empty = batch["counts"].sum(1) == 0
    assert torch.equal(ap.isnan(), empty)
    assert (ap[~empty] == 1).all()
    assert task.metrics[2].compute(outputs, batch).sum() == 0


def test_perfect_outputs_have_next_to_no_loss():
    task = detection(scenes=16)
    batch = batch_of(task, n=16)
    assert task.loss(perfect(batch), batch).max() < 0.05
    assert task.loss(model_of(task)(batch["image"]), batch).min() > 0.5


def test_overlap():
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 4, 4]])
    b = torch.tensor([[1.0, 1, 3, 3], [10, 10, 11, 11]])
    torch.testing.assert_close(iou(a, b), torch.tensor([[1 / 7, 0.0], [4 / 16, 0.0]]))


def test_each_true_box_is_taken_once_by_the_best_of_its_kind():
    true = boxes([[0, 0, 10, 10], [20, 20, 30, 30]], kinds=[0, 1])
    found = boxes([[0, 0, 10, 9], [0, 0, 10, 10], [20, 20, 30, 30], [20, 20, 30, 29]], kinds=[0, 0, 0, 1],
                  scores=[0.9, 0.8, 0.7, 0.6])  # fmt: skip
    assert match(found, true, 0.5).tolist() == [0, -1, -1, 1]
    assert match(found, boxes([]), 0.5).tolist() == [-1] * 4


def brute_force_ap(found, true, threshold):
    """Precision at every rank, the best from there on, averaged over the ranks at which an object is found."""
    ranked = []
    for f, t in zip(found, true, strict=True):
        free = set(range(len(t.scores)))
        for i in range(len(f.scores)):
            overlaps = [
                (float(iou(f.corners[i : i + 1], t.corners[j : j + 1])), j) for j in free if t.kinds[j] == f.kinds[i]
            ]
            best, j = max(overlaps, default=(0.0, -1))
            if best >= threshold:
                free.remove(j)
            ranked.append((float(f.scores[i]), best >= threshold))
    ranked.sort(key=lambda pair: -pair[0])
    hits = [hit for _, hit in ranked]
    precisions = [sum(hits[: k + 1]) / (k + 1) for k in range(len(hits))]
    return sum(max(precisions[k:]) for k in range(len(hits)) if hits[k]) / sum(len(t.scores) for t in true)


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_average_precision_equals_brute_force(threshold):
    g = torch.Generator().manual_seed(0)
    found, true = [], []
    for _ in range(12):
        corners = torch.rand(4, 2, generator=g) * 30
        true.append(Boxes(torch.cat([corners, corners + 10], 1), torch.randint(2, (4,), generator=g), torch.ones(4)))
        near = corners.repeat(2, 1) + 3 * torch.randn(8, 2, generator=g)
        scores = torch.rand(8, generator=g).sort(descending=True).values
        found.append(Boxes(torch.cat([near, near + 10], 1), torch.randint(2, (8,), generator=g), scores))
    value = average_precision(found, true, threshold)
    assert 0.05 < value < 0.95
    assert value == pytest.approx(brute_force_ap(found, true, threshold))
    assert math.isnan(average_precision([boxes([])], [boxes([])], 0.5))
    assert average_precision([boxes([])], [boxes([[0, 0, 1, 1]])], 0.5) == 0


def test_drifts_measure_displacement_and_loss_in_pixels():
    task = detection(scenes=16)
    batch = batch_of(task, n=16)
    outputs = perfect(batch)
    some = batch["counts"].sum(1) > 0
    moved, lost = (d.compute for d in task.drifts)
    shifted = {**outputs, "offset": outputs["offset"] + torch.tensor([1.5, 0.0]).view(1, 2, 1, 1)}
    expected = torch.full((int(some.sum()),), 1.5, dtype=torch.float64)
    torch.testing.assert_close(moved(outputs, shifted, batch)[some], expected, atol=1e-5, rtol=0)  # float32 pixels
    assert (lost(outputs, shifted, batch)[some] == 0).all()
    blind = {**outputs, "heat": torch.full_like(outputs["heat"], -9.0)}
    assert (lost(outputs, blind, batch)[some] == 1).all()
    assert moved(outputs, blind, batch).isnan().all()
    assert lost(outputs, shifted, batch)[~some].isnan().all()


def test_divergence_and_pseudo_labels():
    task = detection(scenes=16)
    batch = batch_of(task, n=16)
    a, b = (model_of(task, seed).eval()(batch["image"]) for seed in (0, 1))
    torch.testing.assert_close(task.divergence(a, a, batch), torch.zeros(16))
    assert (task.divergence(a, b, batch) > 0).all()
    labelled = task.pseudo_label(perfect(batch), {**batch, "boxes": torch.zeros_like(batch["boxes"])})
    assert torch.equal(labelled["counts"].sum(1), batch["counts"].sum(1))
    assert task.metrics[1].compute(perfect(batch), labelled).nanmean() == 1


def test_structured_outputs_can_be_attacked_and_trained():
    task = detection(scenes=64)
    batch = batch_of(task, n=32)
    model, objective = model_of(task), Objective(task, [Adversarial(attack=FGSM(eps=2))])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        losses.append(objective.backward(model, batch).item())
        optimiser.step()
    assert losses[-1] < 0.6 * losses[0]


def test_the_report_can_draw_it():
    task = detection(scenes=30)
    raw = sensor_batch(task.data("train"), range(30))
    index = int(raw["counts"].sum(1).argmax())
    picture = task.picture(raw, {"reference": perfect(raw)}, index)
    assert picture.image.shape == (160, 160, 3)
    assert len(picture.lines["truth"]) == len(picture.lines["reference"]) == int(raw["counts"][index].sum())
    assert max(line.max() for line in picture.lines["truth"]) <= SENSOR_PX
