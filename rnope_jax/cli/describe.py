"""`rnope describe`: what a configuration means, without running it."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from rich.table import Table
from tyro.conf import FlagCreatePairsOff, Positional, arg

#: Columns of the tables where they do not go to a terminal.
_WIDTH = 120


def short(number: float) -> str:
    """A number with three digits and a unit: 5.00T."""
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:,.3g}T"


def describe(
    config: Annotated[Positional[str], arg(metavar="CONFIG")],
    /,
    *,
    contexts: tuple[int, ...] = (),
    measure: Annotated[bool, FlagCreatePairsOff] = False,
    dtype: Literal["float32", "bfloat16"] | None = None,
    out: Path | None = None,
) -> None:
    """Show the layers, parameters and FLOPs of a configuration, and its caches beside full attention in every layer.

    Args:
      config: configuration file, FILE.py or FILE.py:FUNCTION, or a run.
      contexts: tokens for which caches are shown; none takes the row lengths of the stages.
      measure: also make the caches and decode with them on this machine, with random weights.
      dtype: type of activations and cache. None: the model's.
      out: directory for cache.json and figures/cache.png; none writes nothing.
    """
    from rnope_jax import attention, flops
    from rnope_jax.cli.config_file import load
    from rnope_jax.evaluation import efficiency, efficiency_report
    from rnope_jax.evaluation.outcome import check_place, leave

    efficiency.check_contexts(contexts)
    if out is not None:
        check_place(out)
    loaded = load(config)
    shape = loaded.model
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)  # a file has no width to respect
    count = flops.parameters(shape)
    console.print(f"{loaded.name}: {count.total:,} parameters, {count.embedding:,} of them in the embedding")

    layers = Table("layers", "kind", "attention backend", "of rows that are not packed")
    for kind, number in Counter(shape.layer_kinds).items():
        backends = (
            attention.choose(
                shape.attention, kind.window, packed=packed, head_dim=shape.head_dim, dtype=shape.compute_dtype
            )
            for packed in (True, False)
        )
        layers.add_row(str(number), str(kind), *backends)
    console.print(layers)

    stages = Table("stage", "steps", "rows x length", "tokens", "RoPE theta", "FLOPs/token", "6N/token")
    for index, stage in enumerate(loaded.stages):
        length = stage.sequence_length
        thetas = {k.rope_theta for k in loaded.stage_model(index).layer_kinds if k.rope_theta is not None}
        stages.add_row(
            stage.name,
            f"{stage.steps:,}",
            f"{stage.batch_size} x {length:,}",
            short(stage.tokens),
            ", ".join(short(theta) for theta in sorted(thetas)) or "none",
            short(flops.training_flops(shape, [length]) / length),
            short(flops.six_n(shape, 1)),
        )
    console.print(stages)

    shape = shape if dtype is None else replace(shape, compute_dtype=dtype)
    chosen = contexts or tuple(dict.fromkeys(stage.sequence_length for stage in loaded.stages))
    costs = (
        efficiency.measure(shape, chosen, lambda line: print(line, file=sys.stderr, flush=True))
        if measure
        else [efficiency.predict(shape, context) for context in chosen]
    )
    console.print(f"caches in {shape.compute_dtype}, and shares of what full attention in every layer needs:")
    console.print(efficiency_report.table(costs))
    if out is not None:
        drawn = {"cache.png": efficiency_report.figure(costs, loaded.name)}
        for path in leave(out / "cache.json", efficiency_report.to_dict(costs, shape), out / "figures", drawn):
            console.print(str(path))
