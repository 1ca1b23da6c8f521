"""What a run was, how it went and what it left: everything but its evaluations."""

import math
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from rnope_jax import flops
from rnope_jax.checkpoint.inventory import ASIDE, DAMAGED
from rnope_jax.report.html import Markup, join, missing, table, tag
from rnope_jax.report.plot import Curve, Plot, draw, short
from rnope_jax.report.record import Record, flat

#: Colours that curves take in turn.
COLOURS = 6

#: Curves of training: key in metrics.jsonl, title, unit, whether the axis begins at zero.
_CURVES = (
    ("gradient_norm", "Gradient norm", "before clipping", True),
    ("learning_rate", "Learning rate", "", True),
    ("tokens_per_second", "Throughput", "tokens per second", True),
    ("model_tflops", "Model FLOP/s", "TFLOP/s, exact count of the layer kinds", True),
    ("memory_gib", "Memory", "peak, GiB", True),
    ("data_wait", "Waiting for data", "share of the time", True),
)


def train_command(record: Record, *more: str) -> str:
    """The command that goes on with a run."""
    return " ".join(["python train.py", shlex.quote(str(record.path)), *more])


def rnope(record: Record, subcommand: str, *more: str) -> str:
    """A command about a run."""
    return " ".join(["rnope", subcommand, shlex.quote(str(record.path)), *more])


def run_label(records: Sequence[Record], index: int) -> Markup:
    """The name of a run in its colour, as a heading of a column."""
    return tag("span", records[index].name, class_=f"run c{index % COLOURS}")


def overview(records: Sequence[Record]) -> Markup:
    """The numbers that one asks for first."""
    facts = [dict(_facts(record)) for record in records]
    if len(records) == 1:
        pairs = (tag("div", tag("dt", name), tag("dd", *value)) for name, value in facts[0].items())
        return tag("dl", *pairs, class_="facts")
    names = list(dict.fromkeys(name for found in facts for name in found))
    header = ["", *(run_label(records, index) for index in range(len(records)))]
    rows = [[name, *(_line(found.get(name)) for found in facts)] for name in names]
    return table(header, rows)


def _line(value: tuple[Any, ...] | None) -> Markup:
    return join(["-"] if value is None else value)


def _facts(record: Record) -> Iterator[tuple[str, tuple[Any, ...]]]:
    config, total = record.config, record.config.total_steps
    step = record.last_step
    finished = any(line.get("final") for line in record.held_out)
    yield "Steps", (f"{step:,}", _small("of {:,}, {}".format(total, "finished" if finished else "not finished")))
    count = flops.parameters(config.model)
    yield "Parameters", (short(count.total), _small(f"{count.total:,}"))
    yield "Tokens", (short(_tokens(record, step)), _small(f"{short(_tokens(record, total))} planned"))
    if record.held_out:
        last = record.held_out[-1]
        which = "" if last.get("final") else f", a part, step {last['step']:,}"
        yield "Held-out loss", (f"{last['held_out_loss']:.4f}", _small(f"nats per token{which}"))
        if "held_out_bits_per_byte" in last:
            yield "Bits per byte", (f"{last['held_out_bits_per_byte']:.3f}", _small("of held-out text"))
    if record.steps:
        yield "Throughput", (f"{_median(record, 'tokens_per_second'):,.0f}", _small("tokens/s, median"))
        yield "Model FLOP/s", (f"{_median(record, 'model_tflops'):.3g} T", _small("median"))
        yield "Memory", (f"{max(_values(record, 'memory_gib'), default=0):.2f} GiB", _small("peak"))
        wait, goodput = _median(record, "data_wait"), record.steps[-1].get("goodput")
        yield "Waiting for data", (f"{wait:.1%}", _small("of the time, median"))
        if goodput is not None:
            yield "Goodput", (f"{goodput:.0%}", _small("of the time in steps"))
        skipped = sum(line.get("skipped", 0) > 0 for line in record.steps)
        if skipped:
            yield "Skipped steps", (f"{skipped}", _small("among those reported"))
    length = config.max_sequence_length
    share = flops.cache_bytes(config.model, 8 * length, 1) / flops.full_cache_bytes(config.model, 8 * length, 1)
    yield "Cache", (f"{share:.0%}", _small(f"of full attention's, at {8 * length:,} tokens"))


def _small(value: str) -> Markup:
    return tag("small", value)


def _tokens(record: Record, step: int) -> int:
    config, found = record.config, 0
    for index, stage in enumerate(config.stages):
        steps = min(max(step - config.first_step(index), 0), stage.steps)
        found += steps * stage.batch_size * stage.sequence_length
    return found


def _values(record: Record, key: str) -> list[float]:
    return [line[key] for line in record.steps if isinstance(line.get(key), (int, float)) and math.isfinite(line[key])]


def _median(record: Record, key: str) -> float:
    return median(_values(record, key) or [0.0])


def model(records: Sequence[Record]) -> Markup:
    """The layers, one bar each: tall ones see everything, low ones a window."""
    parts = []
    for index, record in enumerate(records):
        if len(records) > 1:
            parts.append(tag("h3", run_label(records, index)))
        shape = record.config.model
        length = record.config.max_sequence_length
        bars = (
            tag(
                "i",
                style=f"--h:{_height(kind.visible_keys(length - 1), length)};"
                f"--k:var(--{'full' if kind.window is None else 'window'})",
                title=f"layer {number}: {kind}",
            )
            for number, kind in enumerate(shape.layer_kinds)
        )
        parts.append(tag("div", *bars, class_="stack", role="img", aria_label="layers by what they see"))
        kinds = Counter(map(str, shape.layer_kinds))
        parts.append(
            tag(
                "p",
                f"{shape.num_layers} layers, the first on the left; tall ones see the whole text, low ones a window. ",
                f"Width {shape.d_model:,}, feed-forward {shape.d_ff:,}, {shape.num_heads} query heads and "
                f"{shape.num_kv_heads} key heads of {shape.head_dim}, vocabulary {shape.vocab_size:,}.",
                class_="soft",
            )
        )
        rows = []
        for kind in dict.fromkeys(shape.layer_kinds):
            slots = (kind.cache_length(context) for context in (length, 8 * length))
            pairs = kind.attention_pairs(length) / length
            rows.append([str(kind), f"{kinds[str(kind)]}", *(f"{slot:,}" for slot in slots), f"{pairs:,.0f}"])
        header = ["kind", "layers", f"cache slots at {length:,}", f"at {8 * length:,}", "keys per query, mean"]
        parts.append(table(header, rows))
    return join(parts)


def _height(keys: int, length: int) -> str:
    return f"{100 * max(0.12, math.log1p(keys) / math.log1p(length)) if keys < length else 100:.0f}%"


def curves(records: Sequence[Record]) -> Markup:
    """Everything that was reported while training."""
    if not any(record.steps or record.held_out for record in records):
        return missing("Nothing was reported yet. Train with", train_command(records[0]))
    marks = _stages(records[0]) if len(records) == 1 else ()
    plots = [
        Plot("Loss", "nats per token", "step", tuple(_losses(records)), marks=marks),
        Plot("Held-out text", "bits per byte", "step", tuple(_bits(records)), marks=marks),
    ]
    for key, title, unit, zero in _CURVES:
        found = (
            Curve(record.name, index % COLOURS, _points(record.steps, key)) for index, record in enumerate(records)
        )
        plots.append(Plot(title, unit, "step", tuple(found), zero=zero, marks=marks))
    drawn = [made for plot in plots if (made := draw(plot)) is not None]
    said = "Point at a curve, or focus it and use the arrow keys, for its values."
    thin = " Faint lines are the training loss, strong ones with dots the held-out loss."
    empty = [
        missing(f"{record.name} has reported nothing yet. Train with", train_command(record))
        for record in records
        if not record.steps
    ]
    return join([tag("p", said, thin, class_="soft"), *empty, tag("div", *drawn, class_="plots")])


def _stages(record: Record) -> tuple[tuple[float, str], ...]:
    stages = record.config.stages
    return tuple((record.config.first_step(index), stages[index].name) for index in range(1, len(stages)))


def _losses(records: Sequence[Record]) -> Iterator[Curve]:
    for index, record in enumerate(records):
        colour = index % COLOURS
        yield Curve(f"{record.name}, training", colour, _points(record.steps, "loss"), "thin")
        held = _points(record.held_out, "held_out_loss")
        yield Curve(f"{record.name}, held-out", colour, held)
        yield Curve(record.name, colour, held, "dots")


def _bits(records: Sequence[Record]) -> Iterator[Curve]:
    for index, record in enumerate(records):
        points = _points(record.held_out, "held_out_bits_per_byte")
        yield Curve(record.name, index % COLOURS, points)
        yield Curve(record.name, index % COLOURS, points, "dots")


def _points(lines: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """Values by step; the last of several of one step, as the closing evaluation is."""
    found = {line["step"]: line[key] for line in lines if isinstance(line.get(key), (int, float))}
    return list(found.items())


def data(records: Sequence[Record]) -> Markup:
    """What was trained on, and how it fills rows."""
    parts = []
    for index, record in enumerate(records):
        if len(records) > 1:
            parts.append(tag("h3", run_label(records, index)))
        if record.data is None:
            why = "an earlier version made this run" if record.steps else "training has not begun"
            parts.append(
                missing(f"The data were not recorded: {why}. To record them, go on with", train_command(record))
            )
            continue
        parts.append(
            table(
                ["stage", "source", "documents", "tokens", "share", "rows", "padding", "cut", "read"], _sources(record)
            )
        )
        held = record.data.get("held_out", {})
        parts.append(
            tag(
                "p",
                f"Held out: {_count(held, 'documents')} documents, {_count(held, 'tokens')} tokens. Tokenizer ",
                tag("code", str(record.data.get("tokenizer", "?"))[:12]),
                ". Rows, padding, documents that are cut and how often a source is read are "
                + ("as the run planned them." if record.rows else "not recorded: an earlier version made this run."),
                class_="soft",
            )
        )
    return join(parts)


def _sources(record: Record) -> Iterator[list[Any]]:
    assert record.data is not None
    for stage, sources in record.data.get("stages", {}).items():
        planned = {row["source"]: row for row in (record.rows or {}).get(stage, ())}
        for number, (source, found) in enumerate(sources.items()):
            row = planned.get(source)
            cells = ["-"] * 5
            if row is not None:
                cells = [f"{row['share']:.1%}", f"{row['rows']:,} ({row['packing']})", f"{row['padding']:.2%}"]
                cells += [f"{row['cut']:,}", f"{row['read']:.3g} times"]
            yield ["" if number else stage, source, _count(found, "documents"), _count(found, "tokens"), *cells]


def _count(found: dict[str, Any], key: str) -> str:
    return f"{found[key]:,}" if isinstance(found.get(key), int) else "?"


def samples(records: Sequence[Record]) -> Markup:
    """Continuations that were made at the end."""
    parts = []
    for index, record in enumerate(records):
        if len(records) > 1:
            parts.append(tag("h3", run_label(records, index)))
        if record.samples:
            parts.append(tag("pre", record.samples.strip("\n")))
        else:
            command = rnope(record, "generate", "'Once upon a time'")
            said = "None are kept: they are made at the end of a run that has evaluation.prompts. Make some with"
            parts.append(missing(said, command))
    return join(parts)


def checkpoints(records: Sequence[Record]) -> Markup:
    """What was saved, and in what condition it is."""
    parts = []
    for index, record in enumerate(records):
        if len(records) > 1:
            parts.append(tag("h3", run_label(records, index)))
        if not record.checkpoints:
            parts.append(missing("There are none yet. Train with", train_command(record)))
            continue
        rows = (
            [
                entry.name,
                entry.written,
                f"{entry.bytes / 1e6:,.1f} MB",
                entry.stage,
                tag(
                    "td",
                    entry.condition + (f": {entry.detail}" if entry.detail else ""),
                    class_="bad" if entry.condition in (DAMAGED, ASIDE) else None,
                ),
            ]
            for entry in record.checkpoints
        )
        parts.append(table(["step", "written (UTC)", "size", "stage", "condition"], rows))
        if any(entry.condition == "complete" for entry in record.checkpoints):
            verify = tag("code", rnope(record, "checkpoints", "--verify"))
            parts.append(tag("p", "Complete: all files have their sizes. ", verify, " reads them.", class_="soft"))
    return join(parts)


def configuration(records: Sequence[Record]) -> Markup:
    """Every field; with several runs first those that differ."""
    fields = [_fields(record) for record in records]
    names = list(dict.fromkeys(name for found in fields for name in found))
    shown = {name: [_shown(found, name) for found in fields] for name in names}
    header = ["field", *(run_label(records, index) for index in range(len(records)))]
    if len(records) == 1:
        header = ["field", "value"]
    parts = []
    if len(records) > 1:
        differing = [[tag("code", name), *values] for name, values in shown.items() if len(set(values)) > 1]
        parts.append(tag("h3", "What differs"))
        parts.append(table(header, differing, class_="words") if differing else tag("p", "Nothing."))
    rows = [[tag("code", name), *values] for name, values in shown.items()]
    parts.append(tag("details", tag("summary", f"All {len(rows)} fields"), table(header, rows, class_="words")))
    return join(parts)


def _fields(record: Record) -> dict[str, Any]:
    found = record.config.to_dict()
    found["model"]["pattern"] = " | ".join(map(str, record.config.model.pattern))
    return flat(found)


def _shown(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        return "-"
    value = fields[name]
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
