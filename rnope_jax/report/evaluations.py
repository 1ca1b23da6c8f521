"""What was measured of a model: loss by position, needles, RULER, and the tasks of lm-evaluation-harness."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from rnope_jax.report.html import Markup, heat, join, missing, table, tag
from rnope_jax.report.plot import Curve, Plot, draw
from rnope_jax.report.record import Record
from rnope_jax.report.sections import COLOURS, rnope, run_label

T = TypeVar("T")


def evaluations(records: Sequence[Record]) -> Markup:
    """Everything that `rnope evaluate` measures."""
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
            body = join([_of(record, found.step), guarded(show, found.found)])
        parts.append(tag("div", *label, body))
    return tag("div", *parts, class_="side") if len(parts) > 1 else join(parts)


def guarded(show: Callable[[T], Markup], found: T) -> Markup:
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
