"""Guard: a small held-out attack each epoch, which catches adversarial training when it fails and mends it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.pgd import PGD
from holdfast.attacks.seal import crafting, perturb
from holdfast.core.contracts import Attack, Batch, Remedy, Task
from holdfast.core.errors import InputError
from holdfast.train.draws import generator
from holdfast.train.objective import Objective, unwrap
from holdfast.train.watched import attack_of, gentler_method, in_ball_of, watched

__all__ = ["Guard", "GuardWarning", "RunningGuard"]

Verdict: TypeAlias = Literal["good", "catastrophic", "overfitting"]


class GuardWarning(UserWarning):
    """Adversarial training is failing."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    r"""What to watch for, and what to do.

    Each check attacks a held-out batch once with one step and once with many. The score is the share of samples that
    are not broken (`Task.failed`), or ``1 / (1 + loss)`` for a task that does not say what broken is.

    *Catastrophic overfitting*: the many-step score has fallen below ``collapse`` times the best so far; or below that
    best and below ``collapse`` times the one-step score; or below a tenth of the one-step score. Model, optimiser and
    objective go back to the last good check, and the training attack is changed: ``"halve"`` halves its step,
    ``"two_steps"`` puts two steps in the place of one; at most ``rollbacks`` times. An attack of which no gentler form
    is known (FreeAT's, power iteration) is watched, and nothing is changed.

    *Robust overfitting*: no new best score in ``patience`` checks. It is reported; the best weights are kept anyway.

    Args:
        attack: of many steps; its ``eps`` and ``norm`` become those of the training attack. Default ``PGD(steps=10)``.
        samples: of the held-out split. Default 256.
        collapse: default 0.5.
        patience: default 5.
        remedy: ``"halve"`` or ``"two_steps"`` (default).
        rollbacks: default 3.
        seed: of the attack's random starts.

    Raises:
        InputError: a setting out of range.
    """

    attack: Attack = field(default_factory=lambda: PGD(steps=10))
    samples: int = 256
    collapse: float = 0.5
    patience: int = 5
    remedy: Remedy = "two_steps"
    rollbacks: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.samples, self.patience) < 1 or not 0 < self.collapse < 1 or self.rollbacks < 0:
            raise InputError(
                f"samples {self.samples}, collapse {self.collapse}, patience {self.patience}, "
                f"rollbacks {self.rollbacks}", where="Guard", fix="use positive counts and a collapse of 0 to 1",
            )  # fmt: skip

    def start(self, task: Task, held_out: Batch, objective: Objective, model: nn.Module,
              optimiser: Optimizer | None = None, also: Sequence[Stateful] = ()) -> RunningGuard:  # fmt: skip
        """Begin to watch; without the optimiser it only warns, and changes nothing.

        Args:
            task: the task.
            held_out: a batch of ``samples`` that are not trained on.
            objective: whose attack is watched, and changed.
            model: in training, prepared and wrapped as it is.
            optimiser: of the model.
            also: what has to go back with the model, e.g. weight averages.

        Raises:
            NoEffectError: no method of the objective attacks inputs.
        """
        return RunningGuard(self, task, held_out, objective, model, optimiser, also)


class Stateful(Protocol):
    """What can be saved and put back."""

    def state_dict(self) -> dict[str, Any]:
        """Its state."""

    def load_state_dict(self, state: Any) -> Any:
        """Put a state back."""


class RunningGuard:
    """A guard at work; call `check` after every epoch.

    ``events`` tells what it found and did, in sentences; ``changes`` counts changes of the attack; ``best`` holds the
    state dict with the best many-step score.
    """

    def __init__(self, guard: Guard, task: Task, held_out: Batch, objective: Objective, model: nn.Module,
                 optimiser: Optimizer | None, also: Sequence[Stateful]) -> None:  # fmt: skip
        watched(objective.methods)
        self.guard, self.task, self.held_out = guard, task, held_out
        self.objective, self.model, self.optimiser = objective, model, optimiser
        self.events: list[str] = []
        self.scores: list[tuple[float, float]] = []
        self.best: dict[str, Tensor] = {}
        self._best_score, self._since_best, self.changes = -1.0, 0, 0
        self._back: tuple[Stateful, ...] = () if optimiser is None else (unwrap(model), optimiser, objective, *also)
        self._good = self._snapshot()

    def _snapshot(self) -> list[Any]:
        return copy.deepcopy([piece.state_dict() for piece in self._back])

    def check(self) -> Verdict:
        """Measure, decide (on rank 0) and act."""
        one, many = _shared(self._measure())
        self.scores.append((one, many))
        verdict = self._verdict(one, many)
        if verdict == "catastrophic":
            self._roll_back(one, many)
            return verdict
        if many > self._best_score:
            self._best_score, self._since_best = many, 0
            self.best = {name: value.detach().clone() for name, value in unwrap(self.model).state_dict().items()}
        else:
            self._since_best += 1
        if verdict == "overfitting" and self._since_best == self.guard.patience:
            self._say(f"robust overfitting: no better score than {self._best_score:.3g} in {self._since_best} checks")
        self._good = self._snapshot()
        return verdict

    def _verdict(self, one: float, many: float) -> Verdict:
        masked = many < 0.1 * one or many < min(self._best_score, self.guard.collapse * one)
        if many < self.guard.collapse * self._best_score or (one > 0.2 and masked):
            return "catastrophic"
        stale = self._since_best + (many <= self._best_score)
        return "overfitting" if stale >= self.guard.patience else "good"

    def _roll_back(self, one: float, many: float) -> None:
        found = f"catastrophic overfitting: score {many:.3g} under many steps, {one:.3g} under one"
        if not self._back or self.changes == self.guard.rollbacks:
            self._say(f"{found}; nothing was changed")
            return
        try:
            weaker = self._weaker()
        except InputError as error:
            self._say(f"{found}; nothing was changed, {error}")
            return
        index = self.objective.index
        for piece, state in zip(self._back, copy.deepcopy(self._good), strict=True):
            piece.load_state_dict(state)
        self.objective.index = index  # draws go on, they do not repeat
        first, new = watched(weaker)
        _, old = watched(self.objective.methods)
        change = f"{old} becomes {new}" if old != new else f"{self.objective.methods[first]} becomes {weaker[first]}"
        self._say(f"{found}; back to the last good state, training attack {change}")
        self.objective.methods = weaker
        self.changes += 1

    def _weaker(self) -> tuple[Any, ...]:
        """The methods with the training attack weakened in each that has it."""
        _, attack = watched(self.objective.methods)
        return tuple(
            gentler_method(method, self.guard.remedy) if attack_of(method) == attack else method
            for method in self.objective.methods
        )

    def _measure(self) -> tuple[float, float]:
        _, attack = watched(self.objective.methods)
        return self._score(FGSM(eps=attack.eps, norm=attack.norm)), self._score(in_ball_of(attack, self.guard.attack))

    def _score(self, attack: Attack) -> float:
        space, plain = self.task.space, unwrap(self.model)

        def loss(values: Mapping[str, Tensor]) -> Tensor:
            view = space.replace(self.held_out, values)
            return self.task.loss(self.task.forward(plain, view), view)

        clean = space.values(self.held_out)
        device = next(iter(clean.values())).device
        draw = generator("guard", self.guard.seed, device=device)
        view = space.replace(self.held_out, perturb(attack, loss, clean, space.leaves, draw, plain))
        with torch.no_grad(), crafting(plain):
            outputs = self.task.forward(plain, view)
            if self.task.failed is not None:
                return 1.0 - float(self.task.failed(outputs, view).double().mean())
            return 1.0 / (1.0 + float(self.task.loss(outputs, view).mean()))

    def _say(self, sentence: str) -> None:
        self.events.append(f"check {len(self.scores)}: {sentence}")
        if self.optimiser is None:
            warnings.warn(self.events[-1], GuardWarning, stacklevel=3)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume to the same decisions."""
        return {"events": self.events, "scores": self.scores, "best": self.best, "best_score": self._best_score,
                "since_best": self._since_best, "changes": self.changes, "good": self._good}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume; the changes of the attack are made again."""
        self.events, self.scores = list(state["events"]), [tuple(pair) for pair in state["scores"]]
        self.best, self._good = dict(state["best"]), list(state["good"])
        self._best_score, self._since_best = float(state["best_score"]), int(state["since_best"])
        while self.changes < int(state["changes"]):
            self.objective.methods = self._weaker()
            self.changes += 1


def _shared(scores: tuple[float, float]) -> tuple[float, float]:
    """Rank 0's scores, on every process: all that is decided follows from them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return scores
    box: list[Any] = [scores]
    torch.distributed.broadcast_object_list(box, src=0)
    one, many = box[0]
    return one, many
