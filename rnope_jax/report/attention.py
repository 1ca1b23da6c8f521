"""Where the layers of a model attend, as `rnope analyze` measured it."""

from collections.abc import Sequence
from typing import Any

from rnope_jax.report.evaluations import guarded
from rnope_jax.report.heads import heads
from rnope_jax.report.html import Markup, join, missing, tag
from rnope_jax.report.plot import Curve, Plot, draw
from rnope_jax.report.record import Record
from rnope_jax.report.sections import COLOURS, rnope, run_label

#: Parts of a text whose attention is summed up, and what they are called.
_PARTS = {"begin": "first tokens", "needle": "the fact", "context": "other text", "qc": "question and answer"}

#: Groups of layers.
_GROUPS = {"all": "all layers", "nope": "NoPE layers", "rope": "RoPE layers"}


def attention(records: Sequence[Record]) -> Markup:
    """Where the layers attend when a question about a fact in a long text is answered."""
    parts = []
    found = {index: model for index, record in enumerate(records) if (model := _analysis(record)) is not None}
    for index, record in enumerate(records):
        if index not in found:
            who = f" for {record.name}" if len(records) > 1 else ""
            parts.append(missing(f"Not measured{who}. Do it with", rnope(record, "analyze")))
    if not found:
        return join(parts)
    legend = (tag("span", name, style=f"--k:var(--p{number})") for number, name in enumerate(_PARTS.values()))
    parts.append(tag("p", "How the attention of the question and its answer is divided over the text.", class_="soft"))
    parts.append(tag("div", *legend, class_="legend"))
    sides = []
    for index, model in found.items():
        label = [tag("p", run_label(records, index))] if len(records) > 1 else []
        sides.append(tag("div", *label, guarded(_masses, model)))
    parts.append(tag("div", *sides, class_="side") if len(sides) > 1 else join(sides))
    parts.append(_by_position(records, found))
    parts.append(heads(records, found))
    return join(parts)


def _analysis(record: Record) -> dict[str, Any] | None:
    """The run's own part of an analysis, which may be of several models."""
    kept = record.evaluations.get("attention")
    models = kept.found.get("models") if kept is not None else None
    if not isinstance(models, list):
        return None
    own = record.path.resolve().name
    named = [model for model in models if isinstance(model, dict) and str(model.get("model", "")).endswith(own)]
    return named[0] if named else (models[0] if len(models) == 1 and isinstance(models[0], dict) else None)


def _masses(model: dict[str, Any]) -> Markup:
    rows = []
    depth = model["findings"][0]["depth"]
    for finding in model["findings"]:
        if finding["depth"] != depth:
            continue
        groups = finding["groups"]
        for name in groups if len(groups) > 2 else ("all",):
            mass, bits = groups[name]["mass"], groups[name]["entropy_bits"]
            told = ", ".join(f"{_PARTS[part]} {mass[part]:.1%}" for part in _PARTS)
            bars = (
                tag("i", style=f"--w:{max(mass[part], 0):.5f};--k:var(--p{number})")
                for number, part in enumerate(_PARTS)
            )
            rows.append(tag("span", f"{finding['length']:,}, {_GROUPS[name]}"))
            rows.append(
                tag("div", *bars, class_="bar", role="img", aria_label=told, title=f"{told}; entropy {bits:.2f} bits")
            )
    return tag("div", *rows, class_="bars")


def _by_position(records: Sequence[Record], found: dict[int, dict[str, Any]]) -> Markup:
    """A plot for each length: the mean weight of a token by its position."""
    several = len(found) > 1
    lengths: dict[int, list[Curve]] = {}
    try:
        for index, model in found.items():
            depth = model["findings"][0]["depth"]
            for finding in model["findings"]:
                if finding["depth"] != depth:
                    continue
                middle = [(a + b) / 2 for a, b in zip(finding["edges"][:-1], finding["edges"][1:], strict=True)]
                groups = finding["groups"]
                for number, name in enumerate(("nope", "rope") if len(groups) > 2 else ("all",)):
                    curve = Curve(
                        f"{records[index].name}, {_GROUPS[name]}" if several else _GROUPS[name],
                        index % COLOURS if several else number,
                        list(zip(middle, groups[name]["curve"], strict=True)),
                        "dashed" if name == "rope" and several else "line",
                    )
                    lengths.setdefault(finding["length"], []).append(curve)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return missing(f"Weights by position are not in the form that this version writes ({error!r}). Measure anew.")
    plots = (
        draw(Plot(f"{length:,} tokens", "mean attention to a token", "position", curves, log_y=True))
        for length, curves in sorted(lengths.items())
    )
    drawn = [plot for plot in plots if plot is not None]
    names = dict.fromkeys((curve.name, curve.colour) for curves in lengths.values() for curve in curves)
    legend = (tag("span", name, class_=f"c{colour}") for name, colour in names)
    note = "" if not several else " Dashed lines are RoPE layers."
    return join(
        [
            tag("p", f"The fact stands out where layers find it.{note}", class_="soft"),
            tag("div", *legend, class_="legend"),
            tag("div", *drawn, class_="plots"),
        ]
    )
