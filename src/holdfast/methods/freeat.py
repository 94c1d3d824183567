"""FreeAT: each backward trains the weights and moves the attack, which is carried on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.samples import along, uniform
from holdfast.attacks.seal import modules_of, trained_in
from holdfast.core.contracts import Attack, Step, Term
from holdfast.core.errors import ClashError, InputError, NoEffectError
from holdfast.core.space import get_leaf, with_leaf
from holdfast.methods.handover import EVALUATED_TWICE
from holdfast.methods.mixing import single_view
from holdfast.methods.rewriting import Leaves, chosen_leaves, rewritten

__all__ = ["FreeAT"]


@dataclass(frozen=True, kw_only=True)
class FreeAT:
    r"""Free adversarial training: replay each batch, and let one backward serve both sides.

    Equation: at each of ``replays`` passes over a batch, ``L(x + d)`` gives the weight gradient for an optimiser step
    and ``d <- clip(d + eps sign(grad_d L), -eps, eps)``; ``d`` is carried over to the next batch.

    The perturbation's gradient comes from *your* backward: call ``backward`` once and step the optimiser after every
    call of the objective. holdfast's loop replays batches by itself; in a loop of your own feed each batch
    ``replays`` times. Accumulating micro-batches is refused, because the attack would outrun the weights.

    Args:
        eps: budget and step in units of the leaf. Default 8.
        replays: m. Default 8, the published best for CIFAR-10; divide the epochs by it.
        leaf: path or paths to perturb; None (default) for all leaves.
        on: name of the term. Default ``"clean"``.

    Raises:
        NoEffectError: no term is named ``on``; no backward since the last step.
        ClashError: the term is crafted; the weights did not move since the last step.
        InputError: a setting out of range.

    Paper: Shafahi et al., NeurIPS 2019, algorithm 1.
    """

    eps: float = 8.0
    replays: int = 8
    leaf: Leaves = None
    on: str = "clean"

    clashes: ClassVar[Mapping[str, str]] = {
        "freelb": "both compute weight gradients on the way",
        "yopo": "both compute weight gradients on the way",
        **EVALUATED_TWICE,
    }

    def __post_init__(self) -> None:
        if self.eps < 0 or self.replays < 1:
            raise InputError(f"eps {self.eps}, replays {self.replays}", where="FreeAT", fix="use at least one replay")

    @property
    def attack(self) -> Attack:
        """One step to its budget, for those who watch it."""
        return FGSM(eps=self.eps)

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """The terms with the named one at the carried perturbation."""
        return rewritten(terms, (self.on,), lambda term: [self._perturbed(term, step)], who="FreeAT")

    def _perturbed(self, term: Term, step: Step) -> Term:
        view = single_view(term, who="FreeAT")
        advance = self._advances(step)
        for path, leaf in chosen_leaves(step.task.space, self.leaf, who="FreeAT").items():
            x = get_leaf(view, path)
            delta = self._delta(path, x, leaf.budget(self.eps, x), step, advance).requires_grad_()
            delta.register_hook(_keep(step.state, path))  # type: ignore[no-untyped-call]  # torch leaves it untyped
            view = with_leaf(view, path, leaf.clip(x + delta))
        return term.changed(views=(view,), crafted=True)

    def _advances(self, step: Step) -> bool:
        """Whether the perturbation moves in this call: once a step, whoever asks again."""
        state, trained = step.state, trained_in(modules_of(step.model))
        if not trained:
            raise NoEffectError("the model has no trained weight", where="FreeAT", fix="unfreeze a layer")
        version = trained[0]._version
        if state.get("index") == step.index:
            return False
        if "index" in state:
            if not any(name.startswith("gradient.") for name in state):
                raise NoEffectError("there was no backward since the last step", where="FreeAT",
                                    fix="call backward on every loss")  # fmt: skip
            if state.get("weights") == (id(step.model), version):
                raise ClashError("the weights did not move since the last step", where="FreeAT",
                                 fix="step the optimiser after every loss, without accumulation")  # fmt: skip
        state.update(index=step.index, weights=(id(step.model), version))
        return True

    def _delta(self, path: str, x: Tensor, radius: Any, step: Step, advance: bool) -> Tensor:
        """The carried perturbation, fitted to the batch, after this step's move."""
        state, n = step.state, x.shape[0]
        carried: Tensor | None = state.get(f"delta.{path}")
        gradient: Tensor | None = state.pop(f"gradient.{path}", None) if advance else None
        if carried is not None and gradient is not None:
            short = gradient.shape[0]  # a short last batch moved only the first samples' perturbations
            moved = along(carried[:short], gradient, radius).clamp_(-radius, radius)
            carried = moved if short == carried.shape[0] else torch.cat([moved, carried[short:]])
        if carried is None or carried.shape[1:] != x.shape[1:] or carried.shape[0] < n:
            carried = radius * uniform(x.shape, step.draw("freeat"), like=x, low=-1.0)
        state[f"delta.{path}"] = carried
        return carried[:n].detach()  # the same memory, which nothing writes to

    def passes(self) -> tuple[float, float]:
        """None: but a run needs as many passes per distinct batch as there are replays."""
        return 0.0, 0.0


def _keep(state: dict[str, object], path: str) -> Callable[[Tensor], None]:
    def hook(gradient: Tensor) -> None:
        state[f"gradient.{path}"] = gradient.detach().sign()

    return hook
