"""Figures of evaluations."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rnope_jax.evaluation.needle import Found
from rnope_jax.evaluation.position import PositionLoss
from rnope_jax.evaluation.ruler.measure import Ruler
from rnope_jax.files import write_bytes

#: Colours of lines, in order.
_COLOURS = ("#1f4e8c", "#b3541e", "#3d7a4f", "#7a4f8c", "#444444")


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG, whole or not at all."""
    data = io.BytesIO()
    figure.savefig(data, dpi=120, format="png")
    plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data.getvalue())
    return path


def heat_map(found: Found, context: int, title: str) -> Figure:
    """Needles that were found: a row for each depth, a column for each length, red for none and green for all.

    Args:
      found: what is drawn.
      context: longest row of training; a line stands behind the last length within it.
      title: of the figure.
    """
    width, height = 2.6 + 0.9 * len(found.lengths), 1.8 + 0.32 * len(found.depths)
    figure, axes = plt.subplots(figsize=(max(5.0, width), max(3.4, height)), layout="constrained")
    image = axes.imshow(found.scores, cmap="RdYlGn", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(found.lengths)), [f"{length:,}" for length in found.lengths])
    axes.set_yticks(range(len(found.depths)), [f"{depth:g}%" for depth in found.depths])
    axes.set(xlabel="tokens of context", ylabel="depth of the needle", title=title)
    for y, row in enumerate(found.scores):
        for x, score in enumerate(row):
            axes.text(x, y, f"{score:.0f}", ha="center", va="center", fontsize=8)
    within = sum(length <= context for length in found.lengths)
    if 0 < within < len(found.lengths):
        axes.axvline(within - 0.5, color="black", linewidth=1.5, linestyle="--")
    figure.colorbar(image, label="found, %")
    return figure


def score_lines(ruler: Ruler, context: int, title: str) -> Figure:
    """RULER's scores by length: the means of the groups that were measured whole, or else each task."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    groups = [(group, [ruler.mean(group, length) or 0.0 for length in ruler.lengths]) for group in ruler.groups]
    tasks = [(task, [ruler.cell(task, length).score for length in ruler.lengths]) for task in ruler.tasks]
    for number, (name, scores) in enumerate(groups or tasks):
        axes.plot(ruler.lengths, scores, "o-", color=_COLOURS[number % len(_COLOURS)], markersize=4, label=name)
    axes.set(ylabel="score", ylim=(-3, 103), title=title)
    _lengths(axes, ruler.lengths, context)
    axes.legend(frameon=False, fontsize=8)
    return figure


def loss_curve(found: PositionLoss, context: int, title: str) -> Figure:
    """Loss by position, in bins that grow with the position."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    bins = found.bins()
    axes.plot([(a * b) ** 0.5 for a, b, _ in bins], [loss for *_, loss in bins], "o-", color=_COLOURS[0], markersize=3)
    axes.set(ylabel="nats per token", title=title)
    early = [length for length in (1, 8, 64) if 2 * length < found.lengths[0]]
    _lengths(axes, [*early, *found.lengths], context)
    return figure


def _lengths(axes: Axes, lengths: Sequence[int], context: int) -> None:
    """A logarithmic axis of positions with the longest row of training marked."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.set_xlabel("tokens")
    axes.grid(alpha=0.3)
    if context:
        axes.axvline(context, color="#999999", linewidth=1, linestyle="--")
        where = axes.get_xaxis_transform()
        axes.text(context, 0.97, "trained up to here", ha="right", va="top", rotation=90, fontsize=7, transform=where)
