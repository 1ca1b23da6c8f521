"""Figures of attention in the layout of the paper's (arXiv 2501.18795), as PNG."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from rnope_jax.evaluation.analysis.probe import NEEDLE
from rnope_jax.evaluation.analysis.results import Analysis, Finding

#: Most panels side by side.
_COLUMNS = 4

_TITLES = {"all": "all layers", "nope": "NoPE layers", "rope": "RoPE layers"}


def figures(analyses: Sequence[Analysis], depth: float) -> dict[str, bytes]:
    """All figures of models that were measured at the same lengths and depths, by file name.

    Curves are drawn of facts at one depth.
    """
    lengths = sorted({found.length for found in analyses[0].findings})
    depths = sorted({found.depth for found in analyses[0].findings})
    drawn = {
        "attention-by-length.png": by_length(analyses, lengths, depth),
        "attention-by-kind.png": by_kind(analyses, lengths[-1], depth),
        "attention-lengths-together.png": together(analyses, lengths, depth),
    }
    if len(depths) > 1 and len(lengths) > 1:
        drawn["attention-needle.png"] = needle_map(analyses, lengths, depths)
    heads = [analysis.at(lengths[-1], depth).heads for analysis in analyses]
    if masses := [found["mass"] for found in heads if found is not None]:
        drawn["attention-heads.png"] = head_map(analyses, lengths[-1], masses)
    return drawn


def by_length(analyses: Sequence[Analysis], lengths: Sequence[int], depth: float) -> bytes:
    """As Figure 1: weight by position, a panel for each length, a curve for each model."""
    figure, panels = _panels(len(lengths))
    for axes, length in zip(panels, lengths, strict=True):
        for analysis in analyses:
            _curve(axes, analysis.at(length, depth), "all", analysis.model)
        _finish(axes, f"{length:,} tokens", "position")
    return _png(figure)


def by_kind(analyses: Sequence[Analysis], length: int, depth: float) -> bytes:
    """As Figure 2: weight by position at one length, a panel for each kind of layer, a curve for each model."""
    kinds = [name for name in ("nope", "rope") if any(name in a.at(length, depth).groups for a in analyses)]
    figure, panels = _panels(len(kinds))
    for axes, kind in zip(panels, kinds, strict=True):
        for analysis in analyses:
            _curve(axes, analysis.at(length, depth), kind, analysis.model)
        _finish(axes, f"{_TITLES[kind]}, {length:,} tokens", "position")
    return _png(figure)


def together(analyses: Sequence[Analysis], lengths: Sequence[int], depth: float) -> bytes:
    """As Figure 4: weight by share of the text, a panel for each model, a curve for each length."""
    figure, panels = _panels(len(analyses))
    for axes, analysis in zip(panels, analyses, strict=True):
        for length in lengths:
            _curve(axes, analysis.at(length, depth), "all", f"{length:,} tokens", unit=length)
        _finish(axes, analysis.model, "share of the text")
    return _png(figure)


def needle_map(analyses: Sequence[Analysis], lengths: Sequence[int], depths: Sequence[float]) -> bytes:
    """Mass on the fact by its depth and the length of the text; laid out as the needle evaluation of Figure 5."""
    cells = [
        np.array([[analysis.at(length, depth).groups["all"].mass["needle"] for length in lengths] for depth in depths])
        for analysis in analyses
    ]
    figure, panels = _panels(len(analyses), alike=False)
    for axes, analysis, values in zip(panels, analyses, cells, strict=True):
        image = axes.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=max(c.max() for c in cells))
        axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths], rotation=45)
        axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
        axes.set(title=analysis.model, xlabel="tokens", ylabel="depth of the fact")
        figure.colorbar(image, ax=axes, label="mass on the fact")
    return _png(figure)


def head_map(analyses: Sequence[Analysis], length: int, masses: Sequence[list]) -> bytes:
    """Mass on the fact by layer and head; `masses` [layers, heads, parts] of each model."""
    figure, panels = _panels(len(analyses), alike=False)
    for axes, analysis, mass in zip(panels, analyses, masses, strict=True):
        values = np.array(mass)[..., NEEDLE]
        image = axes.imshow(values, aspect="auto", cmap="viridis", vmin=0)
        layers = [f"{index} {kind}" for index, kind in enumerate(analysis.pattern)]
        axes.set_yticks(range(len(layers)), layers, fontsize=7)
        axes.set_xticks(range(values.shape[1]))
        axes.set(title=f"{analysis.model}, {length:,} tokens", xlabel="head")
        figure.colorbar(image, ax=axes, label="mass on the fact")
    return _png(figure)


def _panels(count: int, *, alike: bool = True) -> tuple[Any, list[Any]]:
    """A figure with `count` panels; those that are alike have one scale."""
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    size = (4.6 * columns + 0.8, 3.8 * rows)
    figure, panels = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharey=alike)
    for axes in panels.flat[count:]:
        axes.remove()
    return figure, list(panels.flat[:count])


def _curve(axes: Any, found: Finding, group: str, label: str, unit: int = 1) -> None:
    """Draws the weight by position; nothing, but with its place among the colours, where there are no such layers."""
    average = found.groups.get(group)
    edges = np.array(found.edges) / unit
    values = np.full(len(edges) - 1, np.nan) if average is None else np.array(average.curve)
    # What no query sees (outside of every window) has no place on a logarithmic scale.
    values = np.where(values > 0, values, np.nan)
    axes.plot((edges[1:] + edges[:-1]) / 2, values, linewidth=1.1, label=None if average is None else label)


def _finish(axes: Any, title: str, xlabel: str) -> None:
    axes.set(title=title, xlabel=xlabel, ylabel="mean attention to a token", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    plt.close(figure)
    return file.getvalue()
