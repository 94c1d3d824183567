"""The WiSE-FT curve as a picture: one line a domain, both ends and the chosen point marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.weights.wise_ft import WeightPath

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_path"]


def draw_path(path: WeightPath, *, unit: str = "") -> Figure:
    """Scores of every domain against alpha, with one standard error on each side.

    Args:
        path: what `walk_path` measured.
        unit: shown at the axis.

    Returns:
        A matplotlib figure of its own, touching no global state.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axes = figure.add_subplot()
    alphas = [point.alpha for point in path.points]
    for domain, direction in path.better.items():
        scores = [point.scores[domain] for point in path.points]
        errors = [point.errors[domain] for point in path.points]
        (line,) = axes.plot(alphas, scores, marker=".", label=f"{domain} ({direction} is better)")
        low = [score - error for score, error in zip(scores, errors, strict=True)]
        high = [score + error for score, error in zip(scores, errors, strict=True)]
        axes.fill_between(alphas, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.plot([alphas[0], alphas[-1]], [scores[0], scores[-1]], "o", color=line.get_color(), markersize=7)
    for alpha, name in ((alphas[0], "start"), (alphas[-1], "end"), (path.best, f"best mean, {path.best:g}")):
        axes.axvline(alpha, color="0.6", linewidth=0.8, linestyle=":")
        axes.annotate(name, (alpha, 1.0), xycoords=("data", "axes fraction"), fontsize=8, ha="center", va="bottom")
    axes.set_xlabel("alpha: 0 the first model, 1 the second")
    axes.set_ylabel(f"score{f' [{unit}]' if unit else ''}")
    axes.legend(frameon=False, fontsize=8)
    return figure
