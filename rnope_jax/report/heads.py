"""Which heads find the fact: a map of their attention to it by layer and head, and the first of them by name."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rnope_jax.layers import LayerKind
from rnope_jax.report.evaluations import guarded
from rnope_jax.report.html import Markup, join, missing, table, tag
from rnope_jax.report.record import Record
from rnope_jax.report.sections import rnope, run_label

#: Most numbers beside an axis.
_NUMBERS = 8


def heads(records: Sequence[Record], found: Mapping[int, dict[str, Any]]) -> Markup:
    """The maps of all runs on one scale, where heads were kept, and the heads that attend most to the fact.

    Args:
      records: the runs of the page.
      found: the analysis of each run that has one, by its place among the records.
    """
    return join(
        [
            tag("h3", "Heads"),
            guarded(lambda analyses: _maps(records, analyses), found),
            tag("p", "Heads that attend most to the fact, in the longest text.", class_="soft"),
            _named(records, found),
        ]
    )


def _maps(records: Sequence[Record], found: Mapping[int, dict[str, Any]]) -> Markup:
    """A map for each length and run: layers from left to right, heads from top to bottom."""
    kept = [
        (finding["length"], index, finding)
        for index, analysis in found.items()
        for finding in _of_one_depth(analysis)
        if finding["heads"] is not None
    ]
    notes = [
        missing(f"Heads were not kept one by one{who}. Do it with", rnope(records[index], "analyze", "--per-head"))
        for index in found
        if index not in {index for _, index, _ in kept}
        for who in (f" for {records[index].name}" if len(records) > 1 else "",)
    ]
    if not kept:
        return join(notes)
    masses = [_needle(finding) for _, _, finding in kept]
    most = max((mass for layers in masses for layer in layers for mass in layer), default=0.0)
    drawn = [
        _map(
            layers,
            most,
            kinds=records[index].config.model.layer_kinds,
            title=f"{length:,} tokens",
            run=records[index].name if len(records) > 1 else "",
            outlined={(head["layer"], head["head"]) for head in finding["retrieval_heads"]},
        )
        for (length, index, finding), layers in sorted(zip(kept, masses, strict=True), key=lambda pair: pair[0][:2])
    ]
    scale = (tag("span", "0"), tag("i", class_="scale"), tag("span", f"{most:.1%} of a head's attention"))
    kinds = (("full", "sees the whole text"), ("window", "sees a window"))
    legend = (tag("span", said, style=f"--k:var(--{colour})") for colour, said in kinds)
    said = "Attention to the fact by head (rows) and layer (columns); the heads that attend most to it are outlined."
    return join(
        [
            *notes,
            tag("p", f"{said} Below: what a layer sees.", class_="soft"),
            tag("div", tag("div", *scale, class_="scaled"), *legend, class_="legend"),
            tag("div", *drawn, class_="plots"),
        ]
    )


def _of_one_depth(analysis: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The findings with the fact where the first has it."""
    depth = analysis["findings"][0]["depth"]
    return (finding for finding in analysis["findings"] if finding["depth"] == depth)


def _needle(finding: dict[str, Any]) -> list[list[float]]:
    """Mass on the fact [layers][heads]; the file has it [layers][heads][begin, needle, context, qc]."""
    return [[float(mass) for _, mass, _, _ in layer] for layer in finding["heads"]["mass"]]


def _map(
    layers: list[list[float]],
    most: float,
    *,
    kinds: Sequence[LayerKind],
    title: str,
    run: str,
    outlined: set[tuple[int, int]],
) -> Markup:
    """A cell for each head, the more colour the more of its attention is on the fact."""
    count = len(layers[0])
    cells, frames = [], []
    for layer, masses in enumerate(layers):
        for head, mass in enumerate(masses):
            named = tag("title", f"layer {layer}, head {head}: {mass:.2%}")
            opacity = f"{mass / most if most else 0:.3f}"
            cells.append(tag("rect", named, x=layer, y=head, width=1, height=1, fill_opacity=opacity))
            if (layer, head) in outlined:
                frames.append(tag("rect", x=layer, y=head, width=1, height=1, class_="frame"))
    svg = tag(
        "svg",
        *cells,
        *frames,
        viewBox=f"0 0 {len(layers)} {count}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{title}: attention to the fact by layer and head",
    )
    strip = (
        tag("i", style=f"--k:var(--{'full' if kind.window is None else 'window'})", title=f"layer {layer}: {kind}")
        for _, (layer, kind) in zip(layers, enumerate(kinds), strict=True)
    )
    return tag(
        "figure",
        tag("figcaption", tag("b", title), " ", tag("span", run)),
        tag("div", *_numbers("top", count), class_="ys"),
        tag("div", svg, class_="canvas"),
        tag("div", tag("div", *strip, class_="strip"), *_numbers("left", len(layers)), tag("i", "layer"), class_="xs"),
        class_="plot heads",
    )


def _numbers(side: str, count: int) -> Iterator[Markup]:
    """Numbers beside the middles of layers or heads, not of all where there are many."""
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64, count) if count <= step * _NUMBERS or step == count)
    for index in range(0, count, step):
        yield tag("span", index, style=f"{side}:{100 * (index + 0.5) / count:.2f}%")


def _named(records: Sequence[Record], found: Mapping[int, dict[str, Any]]) -> Markup:
    """A table for each run."""
    sides = []
    for index, analysis in found.items():
        label = [tag("p", run_label(records, index))] if len(records) > 1 else []
        sides.append(tag("div", *label, guarded(_first_heads, analysis)))
    return tag("div", *sides, class_="side") if len(sides) > 1 else join(sides)


def _first_heads(analysis: dict[str, Any]) -> Markup:
    finding = max(_of_one_depth(analysis), key=lambda finding: finding["length"])
    rows = [
        [head["layer"], head["head"], head["kind"], f"{head['needle']:.1%}", f"{head['needle'] / finding['even']:.1f}"]
        for head in finding["retrieval_heads"]
    ]
    if not rows:
        return tag("p", f"None, at {finding['length']:,} tokens, gives it more than its share of the text.")
    return table(["layer", "head", "kind", "on the fact", "times its share"], rows)
