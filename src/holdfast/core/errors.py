"""What holdfast raises: one family, each error saying what is wrong, where, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["BackendError", "ClashError", "HoldfastError", "InputError", "NoEffectError", "NonFiniteError", "nearest"]


class HoldfastError(Exception):
    """Base of every error that holdfast raises on purpose; the command line prints it as one line.

    Args:
        what: what is wrong, with names, shapes and values.
        where: the file, key, split, recipe or argument in which it was found.
        fix: what the reader can do about it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head} ({self.fix})" if self.fix else head

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling between worker processes.
        return (_rebuild, (type(self), self.what, self.where, self.fix))


def _rebuild(kind: type[HoldfastError], what: str, where: str, fix: str) -> HoldfastError:
    return kind(what, where=where, fix=fix)


class InputError(HoldfastError):
    """The user's input is wrong: a key, a path, a shape, a value outside the declared range."""


class ClashError(HoldfastError):
    """Two parts of a recipe exclude each other."""


class NoEffectError(HoldfastError):
    """A method found nothing to act on; silence would be taken for robustness."""


class NonFiniteError(HoldfastError):
    """A loss, a weight or an input became NaN or infinite."""


class BackendError(HoldfastError):
    """A deployment back-end could not prepare, load or run a model."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """The ``fix`` for a wrong name: the valid one that looks most like it, or all of them."""
    valid = sorted(valid)
    close = difflib.get_close_matches(str(name), valid, n=1)
    return f"did you mean {close[0]!r}?" if close else f"one of: {', '.join(valid) or 'none'}"
