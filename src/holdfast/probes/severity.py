"""Numbers over the severities of a corruption: where it breaks, and the errors that the papers define."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from holdfast.data.corruptions.published import ALEXNET_CLEAN_ERROR, ALEXNET_ERRORS, COMMON

__all__ = ["breaking_severity", "common_errors", "corruption_errors", "crossing"]

BySeverity = Mapping[int, Tensor]


def breaking_severity(clean: Tensor, failed: BySeverity) -> Tensor:
    """The least severity at which each sample fails: 0 when it fails clean, one more than the last when never.

    Args:
        clean: bool (n,), what fails without damage.
        failed: the same by severity.
    """
    found = torch.full(clean.shape, max(failed) + 1.0, dtype=torch.float64)
    for severity in sorted(failed, reverse=True):
        found[failed[severity]] = severity
    found[clean] = 0.0
    return found


def crossing(levels: Sequence[float], values: Sequence[float], limit: float) -> float:
    """Where a curve first reaches or crosses a limit, linearly between its points; infinity when it does not.

    Args:
        levels: severities in rising order, the clean one (0) first.
        values: of the metric there.
        limit: may lie above or below the first value.
    """
    rises = limit >= values[0]
    reached = [value >= limit if rises else value <= limit for value in values]
    if not any(reached):
        return float("inf")
    k = reached.index(True)
    if k == 0:
        return float(levels[0])
    share = (limit - values[k - 1]) / (values[k] - values[k - 1])
    return levels[k - 1] + share * (levels[k] - levels[k - 1])


def common_errors(failed: Mapping[str, BySeverity]) -> tuple[str, Tensor] | None:
    """Mean error over the common corruptions and severities 1 to 5, per sample, and over what it was taken.

    This is the plain mean of CIFAR-10-C, on the corruptions at hand. None unless there are all fifteen, or all but
    frost, each at five severities.

    Args:
        failed: by name of the published corruption and severity, bool (n,).
    """
    names = [name for name in COMMON if len(failed.get(name, {})) == 5]
    if set(COMMON) - set(names) - {"frost"}:
        return None
    left_out = "" if "frost" in names else " (frost left out)"
    means = torch.stack([_total(failed[name]) / 5 for name in names])
    return f"{len(names)} corruptions x 5 severities{left_out}", means.mean(0)


def corruption_errors(clean: Tensor, failed: Mapping[str, BySeverity]) -> Mapping[str, Tensor] | None:
    """``mce`` and ``relative_mce`` per sample, or None unless all fifteen are there at five severities.

    Equation: ``CE_c = sum_s E_sc / sum_s A_sc``, relative ``sum_s (E_sc - E) / sum_s (A_sc - A)``, with AlexNet's
    errors A; mean over the fifteen. Being linear in the errors, both are means of per-sample values.

    Args:
        clean: bool (n,), what fails without damage.
        failed: by name of the published corruption and severity, bool (n,).
    """
    if any(len(failed.get(name, {})) != 5 for name in COMMON):
        return None
    plain, relative = [], []
    for name, alexnet in ALEXNET_ERRORS.items():
        total = _total(failed[name])
        plain.append(total / sum(alexnet))
        relative.append((total - 5 * clean.double()) / (sum(alexnet) - 5 * ALEXNET_CLEAN_ERROR))
    return {"mce": torch.stack(plain).mean(0), "relative_mce": torch.stack(relative).mean(0)}


def _total(failed: BySeverity) -> Tensor:
    return torch.stack([one.double() for one in failed.values()]).sum(0)
