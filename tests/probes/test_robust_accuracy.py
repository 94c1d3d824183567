from __future__ import annotations

import pytest
import torch
from classifier_bench import CLASSES, bench_of
from torch import nn
from toy_tasks import ConvNet, model_of, sentences, text

from holdfast.attacks.aim import at_inputs
from holdfast.attacks.seal import perturb
from holdfast.core.discover import build
from holdfast.core.errors import BackendError, InputError
from holdfast.deploy import differentiable
from holdfast.deploy.differentiable import Differentiable
from holdfast.probes import robust_accuracy
from holdfast.probes.robust_accuracy import RobustAccuracy

SHORT = {"autoattack": {"steps": 8, "queries": 40, "targets": 2}}


def measured(bench, **options):
    rows = list(RobustAccuracy(**{"attacks": (SHORT,), "samples": 24, "eps": (4.0,), **options}).run(bench))
    return {(m.row.condition, m.row.metric): m for m in rows}


def by_metric(found):
    return {metric: m for (_, metric), m in found.items()}


def test_the_verdict_is_that_of_the_attacks_one_after_the_other():
    bench = bench_of(wrong=(2, 5))
    found = by_metric(measured(bench, eps=(6.0,)))
    failed = torch.from_numpy(found["failed"].values).bool()
    assert failed[[2, 5]].all()
    assert 2 < failed.sum() < 24
    parts = {name: torch.from_numpy(m.values).bool() for name, m in found.items() if name != "failed"}
    assert list(parts) == ["broken_by_apgd", "broken_by_apgdt", "broken_by_fab", "broken_by_square"]
    assert torch.equal(
        sum(part.int() for part in parts.values()) + torch.zeros(24).index_fill_(0, torch.tensor([2, 5]), 1),
        failed.int(),
    )
    batch = bench.batch("report", "train")
    member = build("attack", {"apgd": {"loss": "ce", "steps": 8, "eps": 6.0}})
    adv = perturb(member, at_inputs(bench.task, bench.model, batch), {"image": batch["image"]}, bench.task.space.leaves,
                  torch.Generator().manual_seed(0), bench.model)  # fmt: skip
    alone = bench.model(adv["image"]).argmax(1) != batch["y"]
    assert (failed | ~alone).all()


def test_more_budget_breaks_more_and_none_breaks_nothing():
    found = measured(bench_of(wrong=(0,)), eps=(0.0, 3.0, 12.0, 200.0), norm="linf")
    shares = [m.row.value for (_, metric), m in found.items() if metric == "failed"]
    assert shares[0] == pytest.approx(1 / 24)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert ("autoattack steps=8 queries=40 targets=2 linf eps=12", "failed") in found


def test_by_default_it_is_the_standard_ensemble_or_what_suits_few_classes():
    few = bench_of(ConvNet(classes=3), n=6)
    found = measured(few, attacks=(), steps=3, queries=5, samples=6)
    assert {condition for condition, _ in found} == {"apgd+fab+square linf eps=4"}
    batch = few.batch("report", "train")
    assert RobustAccuracy()._default(bench_of(), batch) == ("autoattack",)
    assert RobustAccuracy(steps=9)._default(bench_of(), batch) == ({"autoattack": {"steps": 9, "queries": 5000}},)


def test_pieces_and_other_norms():
    whole, cut = (by_metric(measured(bench_of(), norm="l2", eps=(60.0,), piece=size))["failed"] for size in (24, 7))
    assert whole.row.value == pytest.approx(cut.row.value, abs=0.1)
    assert whole.row.value > 0


def test_a_task_without_classes_is_attacked_by_what_raises_its_error():
    bench = bench_of(labels=None)
    with pytest.raises(InputError, match="is for classification"):
        measured(bench)
    by_default = measured(bench, attacks=(), steps=5)
    assert {condition for condition, _ in by_default} == {"apgd+pgd linf eps=4"}
    found = by_metric(measured(bench, attacks=("pgd", {"apgd": {"steps": 10}}), eps=(12.0,)))
    assert set(found) == {"failed", "broken_by_pgd", "broken_by_apgd"}
    assert found["failed"].row.value > 0


def test_an_inner_tensor_is_attacked():
    task = text()
    object.__setattr__(task, "failed", lambda outputs, batch: outputs.argmax(1) != batch["y"])
    batch, model = sentences(n=12), model_of(task).eval()
    batch["y"] = model(batch["tokens"], batch["mask"]).argmax(1)
    bench = bench_of(model, task=task, batch=batch)
    found = measured(bench, attacks=("pgd",), tap="embedding", eps=(0.01, 3.0), norm="l2")
    shares = {condition: m.row.value for (condition, metric), m in found.items() if metric == "failed"}
    assert shares["pgd l2 at embedding eps=0.01"] < shares["pgd l2 at embedding eps=3"]
    with pytest.raises(InputError, match="no leaf to attack"):
        measured(bench, attacks=("pgd",))


def test_the_model_and_the_random_state_are_as_before():
    bench = bench_of()
    state, rng = {k: v.clone() for k, v in bench.model.state_dict().items()}, torch.get_rng_state()
    measured(bench)
    assert all(torch.equal(value, state[key]) for key, value in bench.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(p.grad is None and p.requires_grad for p in bench.model.parameters())


def test_too_little_memory_halves_the_pieces() -> None:
    torch.manual_seed(0)
    net, sizes = ConvNet(classes=CLASSES).eval(), []

    class Hungry(nn.Module):
        def forward(self, image):
            sizes.append(len(image))
            if len(image) > 7 and len(sizes) > 1:  # the bench itself has labelled all samples at once
                raise RuntimeError("CUDA out of memory: tried to allocate")
            return net(image)

    hungry = by_metric(measured(bench_of(Hungry()), attacks=("pgd",), eps=(6.0,), piece=24))["failed"]
    plain = by_metric(measured(bench_of(net), attacks=("pgd",), eps=(6.0,), piece=6))["failed"]
    assert hungry.values.tolist() == plain.values.tolist()


def test_another_engine_gives_the_same_verdict(monkeypatch):
    built = []

    class Seen(Differentiable):
        def __init__(self, *arguments, **options) -> None:
            super().__init__(*arguments, **options)
            built.append(self)

    monkeypatch.setattr(differentiable, "Differentiable", Seen)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.Softplus(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, CLASSES)
    )
    bench = bench_of(model.eval())
    eager = measured(bench, engine="eager", eps=(4.0, 6.0))
    asked = measured(bench, engine="onnxruntime", eps=(4.0, 6.0))
    assert len(built) == 1
    assert {key: m.values.tolist() for key, m in asked.items()} == {key: m.values.tolist() for key, m in eager.items()}
    assert any(m.row.value > 0 for (_, metric), m in asked.items() if metric == "broken_by_apgd")
    measured(bench)
    assert len(built) == 1  # there is too little to do
    monkeypatch.setattr(robust_accuracy, "WORTH", 10)
    measured(bench)
    assert len(built) == 2


class Untranslated(nn.Module):
    """No ONNX for a complex FFT."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ConvNet(classes=CLASSES)

    def forward(self, image):
        return self.net(torch.fft.ifft2(torch.fft.fft2(image)).real)


def test_where_no_engine_is_to_be_had_the_model_does_it(monkeypatch):
    monkeypatch.setattr(robust_accuracy, "WORTH", 10)
    model = Untranslated().eval()
    auto, eager = (by_metric(measured(bench_of(model), attacks=("pgd",), engine=e)) for e in ("auto", "eager"))
    assert auto["failed"].values.tolist() == eager["failed"].values.tolist()
    with pytest.raises(BackendError, match="has no translation"):
        measured(bench_of(model), attacks=("pgd",), engine="onnxruntime")
    with pytest.raises(InputError, match="can only be attacked in the eager model"):
        measured(bench_of(), attacks=("pgd",), engine="onnxruntime", tap="net")


# --- doubts ---------------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    def __init__(self, change):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.change = ConvNet(classes=CLASSES), change

    def forward(self, image):
        return self.change(self.net, image)


def rounded(net, image):
    """No gradient anywhere."""
    return net((image * 255).round() / 255)


def reversed_gradient(net, image):
    """The right outputs with a gradient that points away from the harm."""
    return net(2 * image.detach() - image)


def noisy(net, image):
    return net(image + 0.05 * torch.rand_like(image))


def softmax(net, image):
    return net(image).softmax(1)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (rounded, "zero_gradient"),
        (reversed_gradient, "gradient_masking"),
        (noisy, "random_outputs"),
        (softmax, "probabilities"),
    ],
)
def test_planted_faults_are_flagged(change, flag):
    found = by_metric(measured(bench_of(Wrapped(change)), eps=(6.0,)))
    assert flag in found["failed"].row.flags


def test_a_plain_model_raises_no_doubt():
    assert by_metric(measured(bench_of(), eps=(6.0,)))["failed"].row.flags == ()


def test_inputs_outside_the_range_are_refused():
    bench = bench_of()
    bench.batch("report", "train")["image"].mul_(255)
    with pytest.raises(InputError, match="leave the declared range"):
        measured(bench)


def test_a_task_that_does_not_say_what_failing_is_is_refused():
    with pytest.raises(InputError, match="does not say what counts as broken"):
        measured(bench_of(failed=None))
