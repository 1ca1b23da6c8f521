"""Programs measured in turn: each side in a process of its own, which waits while others are measured."""

import multiprocessing
import statistics
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rnope_jax import flops
from rnope_jax.config import ModelConfig
from rnope_jax.layers import rnope_swa

#: 44M parameters: the size at which a CPU can be held to account.
MODEL = ModelConfig(
    pattern=rnope_swa(window=512),
    num_layers=8,
    vocab_size=32_000,
    d_model=512,
    d_ff=1792,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
)


class Side:
    """A process that measures when it is told to.

    Args:
      begin: called in the process with `arguments`; returns what `measure` calls there.
      arguments: for it.
    """

    def __init__(self, begin: Callable[..., Callable[..., Any]], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, begin, arguments), daemon=True)
        self.process.start()

    def measure(self, *asked: Any) -> Any:
        """One measurement."""
        self.connection.send(asked)
        return self.connection.recv()

    def close(self) -> None:
        """Ends the process."""
        self.connection.send(None)
        self.process.join()


def ratio(theirs: list[float], ours: list[float]) -> float:
    """The median of the ratios within a round, so that a busy minute touches both sides."""
    return round(statistics.median(a / b for a, b in zip(theirs, ours, strict=True)), 2)


def shape(model: ModelConfig) -> dict[str, Any]:
    """What a result says of the model."""
    fields = ("num_layers", "d_model", "d_ff", "num_heads", "num_kv_heads", "vocab_size")
    about = {name: getattr(model, name) for name in fields}
    return about | {"window": model.pattern[0].window, "parameters": flops.parameters(model).total}


def without_peer() -> str:
    """Why transformers cannot be measured; empty if it can."""
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def transformers_config(model: ModelConfig, **options: Any) -> Any:
    """The configuration of transformers' Cohere2 of this shape."""
    import transformers

    return transformers.Cohere2Config(
        vocab_size=model.vocab_size,
        hidden_size=model.d_model,
        intermediate_size=model.d_ff,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        num_key_value_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        sliding_window=model.pattern[0].window,
        **options,
    )


def peak(device: Any = None) -> float:
    """The most memory in GiB that this process ever had; of a GPU where jax's device is given and is one."""
    if used := device.memory_stats() if device is not None else None:
        return round(used["peak_bytes_in_use"] / 2**30, 2)
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20, 2)


def _serve(connection: Connection, begin: Callable[..., Callable[..., Any]], arguments: tuple) -> None:
    run = begin(*arguments)
    while (asked := connection.recv()) is not None:
        connection.send(run(*asked))
