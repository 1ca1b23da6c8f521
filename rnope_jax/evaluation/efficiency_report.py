"""Cache and speed as a table, a figure and JSON."""

import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import jax
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from rich.table import Table

from rnope_jax.config import ModelConfig
from rnope_jax.evaluation.efficiency import Cost

#: Colours of a model and its twin.
_OURS, _FULL = "#1f4e8c", "#b3541e"


def table(costs: Sequence[Cost]) -> Table:
    """Predicted shares, and what was measured beside them."""
    measured = any(cost.measured for cost in costs)
    made = Table()
    names = ["context", "cache\nMiB", "full\nMiB", "cache\nshare", "bytes/token\nshare", "prefill\nshare"]
    names += ["measured\ncache", "ms/token", "full\nms/token", "measured\ntime"] if measured else []
    for name in names:
        made.add_column(name, justify="right")
    for cost in costs:
        cells = [f"{cost.context:,}", _mib(cost.cache_bytes), _mib(cost.full_cache_bytes)]
        cells += [f"{share:.3f}" for share in (cost.cache_share, cost.read_share, cost.prefill_share)]
        if cost.measured and cost.full_measured:
            times = [1e3 * found.seconds_per_token for found in (cost.measured, cost.full_measured)]
            shares = cost.measured_cache_share, cost.measured_time_share
            cells += [f"{shares[0]:.3f}", *(f"{ms:.2f}" for ms in times), f"{shares[1]:.3f}"]
        made.add_row(*cells)
    return made


def figure(costs: Sequence[Cost], name: str) -> bytes:
    """Cache, and time for a token where it was measured, by context, beside the twin's."""
    measured = [cost for cost in costs if cost.measured and cost.full_measured]
    drawn, panels = plt.subplots(1, 2 if measured else 1, figsize=(10 if measured else 5.4, 4), squeeze=False)
    cache = panels[0][0]
    contexts = [cost.context for cost in costs]
    cache.plot(
        contexts, [cost.full_cache_bytes / 2**20 for cost in costs], "o-", label="full attention", color="#b3541e"
    )
    cache.plot(contexts, [cost.cache_bytes / 2**20 for cost in costs], "o-", label=name, color="#1f4e8c")
    cache.set(title="Key-value cache", ylabel="MiB", xlabel="tokens", xscale="log", yscale="log")
    if measured:
        times = panels[0][1]
        contexts = [cost.context for cost in measured]
        for label, color, found in (
            ("full attention", _FULL, [cost.full_measured for cost in measured]),
            (name, _OURS, [cost.measured for cost in measured]),
        ):
            times.plot(contexts, [1e3 * m.seconds_per_token for m in found if m], "o-", label=label, color=color)
        times.set(title="Time for a token", ylabel="ms", xlabel="tokens", xscale="log")
    for axes in panels[0]:
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    drawn.tight_layout()
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=120)
    plt.close(drawn)
    return file.getvalue()


def to_dict(costs: Sequence[Cost], config: ModelConfig) -> dict[str, Any]:
    """Everything, ready to be written as JSON."""
    return {
        "what": "cache and speed",
        "pattern": [str(kind) for kind in config.pattern],
        "dtype": config.compute_dtype,
        "device": jax.local_devices()[0].device_kind,
        "contexts": [asdict(cost) for cost in costs],
    }


def _mib(size: int) -> str:
    return f"{size / 2**20:,.2f}"
