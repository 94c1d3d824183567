"""The objective: a step is a list of terms, methods rewrite it, and the sum is differentiated.

objective = Objective(task, methods=[Adversarial(FGSM(eps=0.5), clean_weight=0.5)])
model = objective.prepare(model, example)
for batch in loader:
    objective(model, batch).backward(); optimizer.step(); optimizer.zero_grad()
model = objective.strip(model)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from holdfast.core.contracts import (
    Batch,
    Method,
    Prepares,
    Replays,
    Step,
    Surgery,
    Task,
    TaskLoss,
    Term,
    WeightPerturbation,
)
from holdfast.core.errors import ClashError, InputError
from holdfast.core.space import first_tensor
from holdfast.train.draws import generator
from holdfast.train.perturbed import Strategy, choose_strategy, functional, in_place
from holdfast.train.terms import differentiate, losses, total
from holdfast.train.wrapping import rank, unwrap

__all__ = ["Objective", "unwrap"]

RANGE_CHECK_EVERY = 64


class Objective:
    r"""The training loss of a task under a recipe's methods, usable in any PyTorch loop.

    Equation: ``L = sum_t weight_t * mean_i loss_t(outputs of views_t)_i`` over the terms ``t`` that the methods
    leave, evaluated at ``theta``, or at ``theta + delta`` with a weight perturbation.

    Args:
        task: the task; its ``loss``, ``forward`` and ``space`` are used.
        methods: applied in the order given, each to the terms the previous one left.
        surgery: changes of the model, applied by `prepare` and undone by `strip`.
        perturbation: a weight perturbation such as SAM, or None. How it is applied is chosen in the first step and
            stands in ``strategy``: a functional call, or in place where layers are checkpointed.
        unlabelled: unlabelled batches: an iterable, restarted when it ends, or a sequence, from which a resumed run
            takes its batch directly; None when no method needs it.
        seed: seed of every draw of the methods.

    Raises:
        ClashError: two methods exclude each other.
        InputError: the first batch leaves the declared input range, or `prepare` was needed and left out.
    """

    def __init__(self, task: Task, methods: Sequence[Method] = (), *, surgery: Sequence[Surgery] = (),
                 perturbation: WeightPerturbation | None = None, unlabelled: Iterable[Batch] | None = None,
                 seed: int = 0) -> None:  # fmt: skip
        self.task, self.methods = task, tuple(methods)
        own = (piece for method in self.methods if isinstance(method, Prepares) for piece in method.surgery)
        self.surgery = (*surgery, *own)
        self._prepared: type[nn.Module] | None = None
        self.perturbation, self.seed = perturbation, seed
        self.strategy: Strategy | None = None
        self.index = 0
        self._stream = _Stream(unlabelled)
        self._states: list[dict[str, Any]] = [{} for _ in self.methods]
        _refuse_clashes(self.methods, self.perturbation)

    # --- the model ---

    def prepare(self, model: nn.Module, example: Batch) -> nn.Module:
        """The model to train: every surgery applied in order, before DDP and the optimiser exist."""
        for piece in self.surgery:
            model = piece.apply(model, self.task.inputs(example))
        self._prepared = type(model)
        return model

    def strip(self, model: nn.Module) -> nn.Module:
        """The deployable model: every surgery undone, last first."""
        model = unwrap(model)
        for piece in reversed(self.surgery):
            model = piece.strip(model)
        return model

    # --- the two doors ---

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a batch, a scalar to call ``backward`` on; counts one step."""
        return self._loss(model, batch, own_backward=False)

    def backward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the loss, call its ``backward`` and return it detached."""
        return self._loss(model, batch, own_backward=True)

    def _loss(self, model: nn.Module, batch: Batch, *, own_backward: bool) -> Tensor:
        """The loss; with ``own_backward`` it is differentiated already and detached."""
        terms = self.terms(model, batch)
        if self.perturbation is None:
            found = losses(terms, partial(self.task.forward, model))
            loss = differentiate(found) if own_backward else total(found)
        else:
            loss = self._perturbed(model, terms, batch, self.perturbation, own_backward=own_backward)
        self.index += 1
        return loss

    def terms(self, model: nn.Module, batch: Batch) -> list[Term]:
        """The terms of this step after every method; drawing again at the same step gives the same terms."""
        if self.surgery and (self._prepared is None or not isinstance(unwrap(model), self._prepared)):
            raise InputError("the model was not prepared", where="objective",
                             fix="train what objective.prepare(model, example) returns")  # fmt: skip
        if self.index % RANGE_CHECK_EVERY == 0:
            self.task.space.check(batch, where=f"training batch of step {self.index}")
        terms = [Term(name="clean", views=(batch,), loss=TaskLoss(self.task, batch))]
        if self.methods:
            unlabelled = self._stream.at(self.index)
            for method, state in zip(self.methods, self._states, strict=True):
                terms = method.rewrite(terms, self._step(model, batch, unlabelled, state))
        return terms

    def _step(self, model: nn.Module, batch: Batch, unlabelled: Batch | None, state: dict[str, Any]) -> Step:
        return Step(
            task=self.task,
            model=unwrap(model),
            forward=partial(self.task.forward, model),
            batch=batch,
            unlabelled=unlabelled,
            index=self.index,
            state=state,
            draw=lambda name: generator(self.seed, self.index, rank(), name, device=first_tensor(batch).device),
        )

    def _perturbed(self, model: nn.Module, terms: list[Term], batch: Batch, perturbation: WeightPerturbation, *,
                   own_backward: bool) -> Tensor:  # fmt: skip
        if self.strategy is None:
            self.strategy = choose_strategy(unwrap(model), lambda: self.task.forward(model, batch))
        step = self._step(model, batch, None, {})
        perturbed = in_place if self.strategy == "in_place" else functional
        return perturbed(model, terms, perturbation, step, own_backward=own_backward)

    # --- what it costs, and resuming ---

    @property
    def replays(self) -> int:
        """How often each batch is to be trained on in a row."""
        return max((method.replays for method in self.methods if isinstance(method, Replays)), default=1)

    def passes(self) -> tuple[float, float]:
        """Forward and backward passes of one step, as the methods declare them."""
        forwards, backwards = 1.0, 1.0
        added = [method.passes() for method in self.methods]
        added += [self.perturbation.passes()] if self.perturbation is not None else []
        for more_forwards, more_backwards in added:
            forwards, backwards = forwards + more_forwards, backwards + more_backwards
        return forwards, backwards

    def state_dict(self) -> dict[str, Any]:
        """Step counter and the methods' states: with them, training resumes to the same bits."""
        return {"index": self.index, "seed": self.seed, "states": self._states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume.

        Raises:
            InputError: the state belongs to another list of methods or another seed.
        """
        if len(state["states"]) != len(self.methods) or state["seed"] != self.seed:
            raise InputError("the saved objective has other methods or another seed", where="checkpoint",
                             fix="resume with the recipe it was saved under")  # fmt: skip
        self.index = int(state["index"])
        for mine, saved in zip(self._states, state["states"], strict=True):
            mine.clear()
            mine.update(saved)


def _refuse_clashes(methods: Sequence[Method], perturbation: WeightPerturbation | None) -> None:
    names = {type(piece).__name__.lower() for piece in (*methods, perturbation) if piece is not None}
    for method in methods:
        for other, reason in method.clashes.items():
            if other.replace("_", "").lower() in names - {type(method).__name__.lower()}:
                raise ClashError(f"{type(method).__name__} clashes with {other}: {reason}", where="methods")


class _Stream:
    """The unlabelled stream: batch ``i`` of an endlessly repeated iterable, so a resumed run sees the same ones."""

    def __init__(self, batches: Iterable[Batch] | None) -> None:
        self._batches = batches
        self._iterator: Iterator[Batch] | None = None
        self._current: Batch | None = None
        self._position = -1

    def at(self, index: int) -> Batch | None:
        if self._batches is None:
            return None
        if isinstance(self._batches, Sequence):
            return self._batches[index % len(self._batches)]
        while self._position < index:
            self._current = self._next()
            self._position += 1
        return self._current

    def _next(self) -> Batch:
        for _ in range(2):
            if self._iterator is None:
                self._iterator = iter(self._batches or ())
            for batch in self._iterator:
                return batch
            self._iterator = None
        raise InputError("the unlabelled stream is empty", where="objective", fix="give at least one batch")
