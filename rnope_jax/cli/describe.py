"""`rnope describe`: what a configuration means, without running it."""

from collections import Counter

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional


def short(number: float) -> str:
    """A number with three digits and a unit: 5.00T."""
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:,.3g}T"


def describe(config: Positional[str], /) -> None:
    """Show the layers, parameters, FLOPs and cache sizes of a configuration.

    Args:
      config: configuration file, FILE.py or FILE.py:FUNCTION.
    """
    from rnope_jax import attention, flops
    from rnope_jax.cli.config_file import load

    loaded = load(config)
    shape = loaded.model
    console = Console(highlight=False)
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

    caches = Table("context", "key-value cache (bf16)", "share of full attention")
    for context in dict.fromkeys(stage.sequence_length for stage in loaded.stages):
        size = flops.cache_bytes(shape, context, 2)
        whole = flops.full_cache_bytes(shape, context, 2)
        caches.add_row(f"{context:,}", f"{size / 2**20:,.2f} MiB", f"{size / whole:.3f}")
    console.print(caches)
