"""Trust flags: reasons to doubt a row, and what each means; ``docs/flags.md`` says the same at more length."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MEANING", "VOIDING"]

MEANING: Mapping[str, str] = {
    "gradient_masking": "A one-step attack did more harm than an iterated one of the same budget: the gradient leads "
    "astray, and the model may be weaker than it looks.",
    "init_law_assumed": "Fresh weights came from the task's own build_model, because the weights before training were "
    "not kept; if the training began elsewhere, they are drawn from another law.",
    "not_converged": "An iteration ended before it had settled; the value is where it stood then.",
    "precision_not_executed": "The back-end accepted the requested precision but computed in another one; the row "
    "says which.",
    "transferred": "The attack was crafted on the eager model and only replayed on this subject; an attack on the "
    "subject itself may do more harm.",
    "undefined_samples": "The metric does not apply to some samples; they were left out, and n counts the rest.",
    "zero_gradient": "The attack found no gradient on more than one sample in twenty, so it did not attack those.",
}
"""Meaning by flag; a probe that raises a new flag adds it here and to ``docs/flags.md``."""

VOIDING = frozenset({"gradient_masking", "precision_not_executed", "zero_gradient"})
"""Flags under which a number may look better than it is: with one of them no gate passes."""
