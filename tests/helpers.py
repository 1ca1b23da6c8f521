"""Small builders that tests share."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnope_jax.config import Config, ModelConfig, ScheduleConfig, StageConfig
from rnope_jax.layers import rnope_swa
from rnope_jax.model import Params, describe


def tiny_model(**changes: Any) -> ModelConfig:
    """A model that compiles fast: two scanned periods and a remainder, two key heads, float32, no remat."""
    defaults = {
        "pattern": rnope_swa(window=5, theta=100.0, ratio=1),
        "num_layers": 5,
        "vocab_size": 64,
        "d_model": 16,
        "d_ff": 24,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "compute_dtype": "float32",
        "remat": "none",
    }
    return ModelConfig(**{**defaults, **changes})


def tiny_config(**changes: Any) -> Config:
    """A run of one short stage."""
    stage = StageConfig(
        name="only", steps=4, sequence_length=32, batch_size=8, schedule=ScheduleConfig(peak=1e-3, warmup_steps=1)
    )
    return Config(**{"name": "tiny", "model": tiny_model(), "stages": (stage,), **changes})


def random_params(config: ModelConfig, seed: int = 0, gain: float = 1.0) -> Params:
    """Parameters under which every part of the model matters: products keep the scale, norms differ from one.

    Drawn with numpy, because compiling `init` takes longer than most tests.
    """
    rng = np.random.default_rng(seed)

    def draw(name: str, info: Any) -> jax.Array:
        if info.is_matrix:
            fan_in = np.prod([info.shape[axis] for axis in info.input_axes])
            value = rng.normal(0, gain / np.sqrt(fan_in), info.shape)
        elif name == "embedding":
            value = rng.normal(0, 1, info.shape)
        else:
            value = rng.uniform(0.5, 1.5, info.shape)
        return jnp.asarray(value, jnp.float32)

    return {name: draw(name, info) for name, info in describe(config).items()}


def random_tokens(config: ModelConfig, batch: int, length: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(1, config.vocab_size, (batch, length)), jnp.int32)


def pack(*rows: Sequence[int], length: int) -> tuple[jax.Array, jax.Array]:
    """Segment ids and restarting positions [B, S] of rows of documents of these lengths; the rest is padding (0)."""
    segments, positions = np.zeros((2, len(rows), length), np.int32)
    for row, lengths in enumerate(rows):
        assert sum(lengths) <= length
        start = 0
        for number, size in enumerate(lengths, 1):
            segments[row, start : start + size] = number
            positions[row, start : start + size] = np.arange(size)
            start += size
        positions[row, start:] = np.arange(length - start)
    return jnp.asarray(segments), jnp.asarray(positions)


def assert_close(actual: Any, expected: Any, tolerance: float, name: str = "", floor: float = 0.0) -> None:
    """Asserts that two arrays differ by at most `tolerance` times the largest magnitude expected (or `floor`)."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    assert np.isfinite(actual).all(), f"{name}: not finite"
    error, scale = np.abs(actual - expected).max(), max(np.abs(expected).max(), floor)
    assert error <= tolerance * scale, f"{name}: error {error:.3g} at magnitude {scale:.3g}"


def assert_close_by_name(actual: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        assert_close(actual[name], expected[name], tolerance, name)


def equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Every equation of a jaxpr and of all jaxprs inside it, and how often it runs."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    for equation in jaxpr.eqns:
        yield equation, times
        inner = times * (equation.params["length"] if equation.primitive.name == "scan" else 1)
        for value in equation.params.values():
            for sub in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(sub, "eqns") or hasattr(sub, "jaxpr"):
                    yield from equations(sub, inner)


def product_flops(function: Callable, *args: Any) -> int:
    """FLOPs of all matrix products that `function` runs, two per multiplication."""
    total = 0
    for equation, times in equations(jax.make_jaxpr(function)(*args)):
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = np.prod([shape[axis] for axis in contracted], dtype=int)
            total += 2 * times * int(inner) * equation.outvars[0].aval.size
    return total
