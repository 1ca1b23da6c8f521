"""What was measured of a model: loss by position, needles, RULER, other tasks, attention."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rnope_jax.report.html import Markup, heat, join, missing, table, tag
from rnope_jax.report.plot import Curve, Plot, draw
from rnope_jax.report.record import Record
from rnope_jax.report.sections import COLOURS, rnope, run_label

#: Parts of a text whose attention is summed up, and what they are called.
_PARTS = {"begin": "first tokens", "needle": "the fact", "context": "other text", "qc": "question and answer"}

#: Groups of layers.
_GROUPS = {"all": "all layers", "nope": "NoPE layers", "rope": "RoPE layers"}


def evaluations(records: Sequence[Record]) -> Markup:
    """All but attention."""
    return join(
        [
            tag("h3", "Loss by position"),
            _loss(records),
            tag("h3", "Needle in a haystack"),
            _sides(records, "needle", _needle, "needles", "--needle"),
            tag("h3", "RULER"),
            _sides(records, "ruler", _ruler, "RULER", "--ruler"),
            *_harness(records),
        ]
    )


def _sides(
    records: Sequence[Record], name: str, show: Callable[[dict[str, Any]], Markup], what: str, option: str
) -> Markup:
    """One part for each run, beside each other where there is room."""
    parts = []
    for index, record in enumerate(records):
        label = [tag("p", run_label(records, index))] if len(records) > 1 else []
        found = record.evaluations.get(name)
        if found is None:
            body = missing(f"Not measured: {what}. Do it with", rnope(record, "evaluate", option))
        else:
            body = join([_of(record, found.step), _guarded(show, found.found)])
        parts.append(tag("div", *label, body))
    return tag("div", *parts, class_="side") if len(parts) > 1 else join(parts)


def _guarded(show: Callable[[dict[str, Any]], Markup], found: dict[str, Any]) -> Markup:
    """What a file of results shows; one of another version, or edited by hand, spoils no page."""
    try:
        return show(found)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return missing(f"These results are not in the form that this version writes ({error!r}). Measure anew.")


def _of(record: Record, step: int) -> Markup:
    if step == record.last_step:
        return Markup("")
    return tag(
        "p", f"Of the checkpoint of step {step:,}; the run has come to step {record.last_step:,}.", class_="soft"
    )


def _loss(records: Sequence[Record]) -> Markup:
    curves, notes = [], []
    for index, record in enumerate(records):
        found = record.evaluations.get("loss_by_position")
        if found is None:
            who = f" for {record.name}" if len(records) > 1 else ""
            command = rnope(record, "evaluate", "--loss-by-position")
            notes.append(missing(f"Not measured{who}. Do it with", command))
            continue
        notes.append(_of(record, found.step))
        try:
            points = [((row["from"] * row["to"]) ** 0.5, float(row["loss"])) for row in found.found["by_position"]]
        except (KeyError, TypeError, ValueError) as error:
            notes.append(missing(f"The results of {record.name} cannot be shown ({error!r}). Measure anew."))
            continue
        curves.append(Curve(record.name, index % COLOURS, points))
    contexts = dict.fromkeys(record.config.max_sequence_length for record in records)
    marks = tuple((float(context), "longest row of training") for context in contexts)
    drawn = draw(Plot("Loss", "nats per token", "tokens before", tuple(curves), log_x=True, marks=marks))
    return join([*notes, tag("div", drawn, class_="plots one") if drawn is not None else ""])


def _needle(found: dict[str, Any]) -> Markup:
    context = found["model"]["training_context"]
    header = ["depth", *(_length(length, context) for length in found["lengths"])]
    rows = (
        [f"{depth:g}%", *(heat(score / 100, f"{score:.0f}") for score in row)]
        for depth, row in zip(found["depths"], found["scores"], strict=True)
    )
    past = " Lengths in colour are longer than any row of training." if max(found["lengths"]) > context > 0 else ""
    said = f"Needles found, in percent of {found['samples']}, by depth and tokens of context.{past}"
    return join([tag("p", said, class_="soft"), _map(header, rows)])


def _ruler(found: dict[str, Any]) -> Markup:
    context, cells = found["model"]["training_context"], found["cells"]
    lengths = sorted({cell["length"] for cell in cells})
    scores = {(cell["task"], cell["length"]): cell for cell in cells}
    tasks = list(dict.fromkeys(cell["task"] for cell in cells))
    rows: list[list[Any]] = []
    for task in tasks:
        row: list[Any] = [task]
        for length in lengths:
            cell = scores[task, length]
            shown = f"{cell['score']:.0f}{'' if cell['as_defined'] else '°'}"
            title = f"{cell['score']:.1f} ± {cell['error']:.1f} on {cell['samples']} samples"
            row.append(heat(cell["score"] / 100, shown, title))
        rows.append(row)
    for group, means in found["means"].items():
        rows.append([f"mean, {group}", *(heat(means[str(n)] / 100, f"{means[str(n)]:.1f}") for n in lengths)])
    small = any(not cell["as_defined"] for cell in cells)
    note = " ° A smaller variant of the task: NVIDIA's does not fit into so few tokens." if small else ""
    said = f"Scores by task and tokens of context.{note}"
    header = ["task", *(_length(length, context) for length in lengths)]
    return join([tag("p", said, class_="soft"), _map(header, rows)])


class _Past(Markup):
    """A heading of lengths that no row of training had."""


def _length(length: int, context: int) -> Any:
    return _Past(f"{length:,}") if 0 < context < length else f"{length:,}"


def _map(header: Sequence[Any], rows: Any) -> Markup:
    head = tag("tr", *(tag("th", cell, scope="col", class_=isinstance(cell, _Past) and "past") for cell in header))
    body = (tag("tr", tag("th", row[0], scope="row"), *row[1:]) for row in rows)
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body), class_="map"), class_="scroll", tabindex=0)


def _harness(records: Sequence[Record]) -> Iterator[Markup]:
    """Tasks of lm-evaluation-harness, where any were measured."""
    found = [record.evaluations.get("lm_eval") for record in records]
    if not any(found):
        return
    scores = [_guarded_scores(each.found) if each else {} for each in found]
    names = list(dict.fromkeys(name for each in scores for name in each))
    header = ["task", "metric", *(run_label(records, i) for i in range(len(records)))]
    if len(records) == 1:
        header[-1] = "score"
    yield tag("h3", "lm-evaluation-harness")
    yield table(header, ([task, metric, *(each.get((task, metric), "-") for each in scores)] for task, metric in names))


def _guarded_scores(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    scores = {}
    results = found.get("results")
    for task, metrics in (results if isinstance(results, dict) else {}).items():
        for key, value in (metrics if isinstance(metrics, dict) else {}).items():
            metric, _, _ = key.partition(",")
            if "," in key and not metric.endswith("_stderr") and isinstance(value, (int, float)):
                scores[str(task), metric] = f"{value:.4g}"
    return scores


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
        sides.append(tag("div", *label, _guarded(_masses, model)))
    parts.append(tag("div", *sides, class_="side") if len(sides) > 1 else join(sides))
    parts.append(_by_position(records, found))
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
