from __future__ import annotations

import pytest
import torch
from toy_tasks import classification, images, model_of

from holdfast.attacks.fgm import FGM
from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.fgsm_rs import FGSMRS
from holdfast.attacks.pgd import PGD
from holdfast.core.config import Training
from holdfast.core.errors import InputError, NoEffectError
from holdfast.data.table import Table
from holdfast.methods.adversarial import Adversarial
from holdfast.methods.freeat import FreeAT
from holdfast.methods.mixup import Mixup
from holdfast.methods.trades import TRADES
from holdfast.methods.vat import VAT
from holdfast.train.guard import Guard, GuardWarning, RunningGuard
from holdfast.train.loop import TrainingRun, train
from holdfast.train.objective import Objective
from holdfast.weights.ema import EMA


def task_of():
    return classification(failed=lambda outputs, batch: outputs.argmax(1) != batch["y"])


def started(attack=None, foreign=False, probe=None, methods=None, **options):
    task = task_of()
    objective = Objective(task, methods or [Adversarial(attack=attack or FGSMRS(eps=16), clean_weight=0)])
    model = model_of(task)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    average = EMA(decay=0.9).start(model)
    options |= {"attack": probe} if probe else {}
    guard = Guard(**{"samples": 12, **options}).start(
        task, images(n=12, seed=99), objective, model, None if foreign else optimiser, () if foreign else (average,)
    )
    return guard, objective, model, optimiser, average


def steps(objective, model, optimiser, average, n=2):
    for i in range(n):
        optimiser.zero_grad()
        objective(model, images(seed=i)).backward()
        optimiser.step()
        average.update(model)


def script(monkeypatch, scores):
    scores = iter(scores)
    monkeypatch.setattr(RunningGuard, "_measure", lambda self: next(scores))


def test_the_probe_counts_its_budget_in_the_norm_of_the_training_attack(monkeypatch):
    guard, *_ = started(attack=PGD(eps=128, norm="l2"))
    seen = []
    monkeypatch.setattr(RunningGuard, "_score", lambda self, attack: seen.append((attack.eps, attack.norm)) or 0.5)
    guard.check()
    assert seen == [(128, "l2"), (128, "l2")]


def test_a_probe_of_another_norm_alone_is_refused():
    guard, *_ = started(attack=PGD(eps=8), probe=FGM())
    with pytest.raises(InputError, match="FGM has no norm 'linf'"):
        guard.check()


def test_the_score_is_the_share_that_an_attack_does_not_break():
    guard, _, model, *_ = started()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    one, many = guard._measure()
    assert 0 <= many <= one <= 1
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(m.training for m in model.modules())
    assert guard._measure() == (one, many)
    object.__setattr__(guard.task, "failed", None)
    assert 0 < guard._measure()[1] < guard._measure()[0] < 1


@pytest.mark.parametrize("collapsed", [(0.9, 0.19), (0.8, 0.05), (0.94, 0.31)])
def test_a_collapse_rolls_everything_back_and_changes_the_attack(monkeypatch, collapsed):
    script(monkeypatch, [(0.6, 0.5), collapsed])
    guard, objective, model, optimiser, average = started(attack=FGSMRS(eps=16, step=2.0), remedy="halve")
    steps(objective, model, optimiser, average)
    assert guard.check() == "good"
    good = [v.clone() for v in model.state_dict().values()]
    kept = [v.clone() for v in average.weights().values()]
    momentum = [s["momentum_buffer"].clone() for s in optimiser.state.values()]
    steps(objective, model, optimiser, average)
    index = objective.index
    assert guard.check() == "catastrophic"
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), good, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(average.weights().values(), kept, strict=True))
    found = [s["momentum_buffer"] for s in optimiser.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(found, momentum, strict=True))
    assert objective.index == index
    assert objective.methods[0].attack == FGSMRS(eps=16, step=1.0)
    assert "check 2: catastrophic overfitting" in guard.events[0]
    assert guard.events[0].endswith(
        "training attack FGSMRS(eps=16, step=2.0, norm='linf') becomes FGSMRS(eps=16, step=1.0, norm='linf')"
    )
    steps(objective, model, optimiser, average)


def test_a_collapse_in_the_first_epoch_goes_back_to_the_start(monkeypatch):
    script(monkeypatch, [(0.9, 0.0)])
    guard, objective, model, optimiser, average = started()
    start = [v.clone() for v in model.state_dict().values()]
    steps(objective, model, optimiser, average)
    assert guard.check() == "catastrophic"
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), start, strict=True))


@pytest.mark.parametrize("next_scores", [(0.6, 0.31), (0.98, 0.51), (0.1, 0.3)])
def test_a_dip_and_a_gap_alone_are_no_collapse(monkeypatch, next_scores):
    script(monkeypatch, [(0.6, 0.5), next_scores])
    guard, *_ = started()
    assert [guard.check(), guard.check()] == ["good", "good"]


def test_it_gives_up_after_the_declared_number_of_changes(monkeypatch):
    script(monkeypatch, [(0.6, 0.5), *[(0.9, 0.0)] * 3])
    guard, objective, *rest = started(attack=FGSM(eps=4), rollbacks=2)
    for _ in range(4):
        steps(objective, *rest)
        guard.check()
    assert guard.changes == 2
    assert objective.methods[0].attack == PGD(eps=4, steps=4, random_start=False)
    assert "nothing was changed" in guard.events[2]


def test_every_method_with_the_attack_is_changed(monkeypatch):
    script(monkeypatch, [(0.6, 0.5), (0.9, 0.0)])
    attack = PGD(eps=16, steps=2)
    trained = [TRADES(attack=attack), Adversarial(attack=FGM(eps=1.0), tap="0"), VAT(), Mixup()]
    guard, objective, *_ = started(methods=trained, remedy="two_steps")
    assert [guard.check(), guard.check()] == ["good", "catastrophic"]
    assert objective.methods == (TRADES(attack=PGD(eps=16, steps=4)), *trained[1:])


def test_an_attack_without_a_gentler_form_is_watched_and_nothing_else(monkeypatch):
    script(monkeypatch, [(0.6, 0.5), (0.9, 0.0)])
    guard, objective, model, optimiser, average = started(methods=[FreeAT(eps=16, replays=2)])
    assert guard.check() == "good"
    steps(objective, model, optimiser, average)
    moved = [v.clone() for v in model.state_dict().values()]
    assert guard.check() == "catastrophic"
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), moved, strict=True))
    assert "nothing was changed, Guard: no gentler form of FreeAT" in guard.events[0]
    assert guard.changes == 0


def test_robust_overfitting_is_reported_once_and_the_best_weights_are_kept(monkeypatch):
    script(monkeypatch, [(0.6, s) for s in (0.4, 0.5, 0.45, 0.46, 0.44, 0.43)])
    guard, objective, model, optimiser, average = started(patience=2)
    verdicts = []
    for i in range(6):
        steps(objective, model, optimiser, average)
        verdicts.append(guard.check())
        if i == 1:
            best = {k: v.clone() for k, v in model.state_dict().items()}
    assert verdicts == ["good", "good", "good", "overfitting", "overfitting", "overfitting"]
    assert len(guard.events) == 1
    assert all(torch.equal(guard.best[k], best[k]) for k in best)


def test_without_the_optimiser_it_only_warns(monkeypatch):
    script(monkeypatch, [(0.6, 0.5), (0.9, 0.0)])
    guard, objective, model, optimiser, average = started(foreign=True)
    guard.check()
    steps(objective, model, optimiser, average)
    before = [v.clone() for v in model.state_dict().values()]
    with pytest.warns(GuardWarning, match="nothing was changed"):
        guard.check()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before, strict=True))


def test_a_rollback_goes_on_with_new_draws():
    guard, objective, model, *_ = started()
    before = objective.terms(model, images())[0].views[0]["image"]
    guard._roll_back(0.9, 0.0)
    objective.index += 1
    assert not torch.equal(objective.terms(model, images())[0].views[0]["image"], before)


def run_of(folder, **changes):
    table = {k: v for k, v in images(n=24).items() if k != "variants"}
    settings = {
        "table": Table(table), "variants": {}, "averages": {"ema": EMA(decay=0.9)}, "init_seed": 0, "order_seed": 0,
        "training": Training(epochs=4, batch_size=8, lr=1e-3, checkpoint_seconds=0), "guard": Guard(samples=12),
        "held_out": images(n=12, seed=99), "checkpoint": folder / "checkpoint.pt",
    }  # fmt: skip
    return TrainingRun(**{**settings, **changes})


def test_in_the_loop_it_checks_every_epoch_and_survives_a_kill(tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    scores = [(0.6, 0.5), (0.9, 0.0), (0.6, 0.52), (0.6, 0.51)]
    make = lambda: Objective(task_of(), [Adversarial(attack=FGSMRS(eps=16), clean_weight=0)])  # noqa: E731 - fresh ones

    def measured(self):
        return scores[len(self.scores)]

    monkeypatch.setattr(RunningGuard, "_measure", measured)
    whole, facts = train(task_of(), make(), run_of(tmp_path / "a"))
    assert facts["guard_rollbacks"] == 1
    assert set(whole) == {"init", "ema", "last", "best_robust"}

    done = []

    def kill(steps, note):
        done.append(steps)
        if sum(done) == 8:
            raise KilledError

    with pytest.raises(KilledError):
        train(task_of(), make(), run_of(tmp_path / "b", advance=kill))
    resumed, facts = train(task_of(), make(), run_of(tmp_path / "b"))
    assert facts["guard_rollbacks"] == 1
    for kind, weights in whole.items():
        assert all(torch.equal(weights[k], resumed[kind][k]) for k in weights), kind


def test_refusals():
    task = task_of()
    with pytest.raises(NoEffectError, match="no method attacks inputs"):
        Guard().start(task, images(), Objective(task, [Mixup()]), model_of(task))
    with pytest.raises(InputError, match="positive counts"):
        Guard(samples=0)
