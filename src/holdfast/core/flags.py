"""Trust flags: reasons to doubt a row, and what each means; ``docs/flags.md`` says the same at more length."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MEANING", "VOIDING"]

MEANING: Mapping[str, str] = {
    "gradient_masking": "A weaker attack (fewer steps, or none of the gradient) did more harm than a stronger one of "
    "the same budget: the gradient leads astray, and the model may be weaker than it looks.",
    "held": "Some samples held at the largest budget that was tried; they count with that budget, so that the mean is "
    "a lower bound.",
    "init_law_assumed": "Fresh weights came from the task's own build_model, because the weights before training were "
    "not kept; if the training began elsewhere, they are drawn from another law.",
    "labels_would_move": "The perturbation moves what the target points at, and the target stays; the metric counts "
    "that displacement as error.",
    "not_converged": "An iteration ended before it had settled; the value is where it stood then.",
    "precision_not_executed": "The back-end accepted the requested precision but computed in another one; the row "
    "says which.",
    "probabilities": "The outputs are probabilities, not logits: the softmax flattens the gradient that attacks "
    "follow.",
    "random_outputs": "The same inputs gave other outputs the second time: attacks by gradient see noise, and the "
    "model may be weaker than it looks.",
    "transferred": "The attack was crafted on the eager model and only replayed on this subject; an attack on the "
    "subject itself may do more harm.",
    "undefined_samples": "The metric does not apply to some samples; they were left out, and n counts the rest.",
    "zero_gradient": "The attack found no gradient on more than one sample in twenty, so it did not attack those.",
}
"""Meaning by flag; a probe that raises a new flag adds it here and to ``docs/flags.md``."""

VOIDING = frozenset({"gradient_masking", "precision_not_executed", "probabilities", "random_outputs", "zero_gradient"})
"""Flags under which a number may look better than it is: with one of them no gate passes."""
