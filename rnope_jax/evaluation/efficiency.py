"""What windows save when texts are continued: a model beside its twin with full attention in every layer."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from rnope_jax import flops, model
from rnope_jax.config import ModelConfig
from rnope_jax.errors import UserError
from rnope_jax.inference.generate import DECODE_BLOCK, Sequences, decode
from rnope_jax.inference.layout import layout
from rnope_jax.inference.sampling import GREEDY
from rnope_jax.model import Params
from rnope_jax.weights import multiplied

#: Times that decoding is measured; of each kind of model in turn.
_ROUNDS = 5


@dataclass(frozen=True)
class Measured:
    """Of one model, on this machine."""

    cache_bytes: int
    """Of all arrays that hold keys and values."""
    seconds_per_token: float
    """Of one sequence, when it is as long as the context; the median over rounds."""


@dataclass(frozen=True)
class Cost:
    """Of one context, for a model and its twin."""

    context: int
    cache_bytes: int
    full_cache_bytes: int
    cache_share: float
    read_share: float
    """Of the bytes that a token reads, weights and cache: a bound on the share of time where memory is the limit."""
    prefill_share: float
    """Of the floating-point operations of reading the context."""
    measured: Measured | None = None
    full_measured: Measured | None = None

    @property
    def measured_cache_share(self) -> float | None:
        """Of the twin's cache."""
        if self.measured is None or self.full_measured is None:
            return None
        return self.measured.cache_bytes / self.full_measured.cache_bytes

    @property
    def measured_time_share(self) -> float | None:
        """Of the twin's time for a token."""
        if self.measured is None or self.full_measured is None:
            return None
        return self.measured.seconds_per_token / self.full_measured.seconds_per_token


def check_contexts(contexts: Sequence[int]) -> None:
    """Checks that contexts can be asked about.

    Raises:
      UserError: if one is too short to make tokens in it.
    """
    for context in contexts:
        if context <= DECODE_BLOCK:
            raise UserError(f"contexts = {list(contexts)}: must be above {DECODE_BLOCK} tokens")


def predict(config: ModelConfig, context: int) -> Cost:
    """What layer kinds promise, in the type of the model's activations."""
    size = jnp.dtype(config.compute_dtype).itemsize
    twin = flops.full_twin(config)
    cache, full = (flops.cache_bytes(m, context, size) for m in (config, twin))
    weights = size * flops.parameters(config).total
    return Cost(
        context=context,
        cache_bytes=cache,
        full_cache_bytes=full,
        cache_share=cache / full,
        read_share=(weights + cache) / (weights + full),
        prefill_share=flops.forward_flops(config, [context]) / flops.forward_flops(twin, [context]),
    )


def measure(config: ModelConfig, contexts: Sequence[int], report: Callable[[str], None] = print) -> list[Cost]:
    """Makes caches and decodes with them, with random weights, on this process's first device."""
    check_contexts(contexts)
    both = [layout(m) for m in (config, flops.full_twin(config))]
    params = _random(both[0])  # windows change no parameter
    costs = []
    for context in contexts:
        predicted = predict(config, context)
        seconds: list[list[float]] = [[], []]
        sizes = [0, 0]
        for round_ in range(_ROUNDS + 1):
            for index, m in enumerate(both):
                sizes[index], passed = _decode_once(m, params, context)
                if round_:  # the first compiles
                    seconds[index].append(passed)
        medians = map(statistics.median, seconds)
        ours, full = (Measured(size, median) for size, median in zip(sizes, medians, strict=True))
        costs.append(replace(predicted, measured=ours, full_measured=full))
        report(f"{context:,} tokens: measured")
    return costs


def _random(config: ModelConfig) -> Params:
    dtype = jnp.dtype(config.compute_dtype)
    keys = jax.random.split(jax.random.key(0), len(infos := model.describe(config)))
    return {
        name: config.init_std * jax.random.normal(key, info.shape, dtype)
        if multiplied(name, info)
        else jnp.ones(info.shape, jnp.float32)
        for key, (name, info) in zip(keys, infos.items(), strict=True)
    }


def _decode_once(config: ModelConfig, params: Params, context: int) -> tuple[int, float]:
    """Bytes of keys and values, and seconds for each of the last tokens of a context."""
    length = context - DECODE_BLOCK
    cache = jax.block_until_ready(_filled(model.empty_cache(config, 1, context), length - 1))
    size = sum(part.nbytes for part in jax.tree.leaves(cache) if part.ndim > 3)
    one = jnp.zeros(1, jnp.int32)
    sequences = Sequences(cache, one, one + length, one.astype(bool))
    key = jax.random.key(0)
    began = time.perf_counter()
    jax.block_until_ready(decode(config, GREEDY, None, params, sequences, key, DECODE_BLOCK))
    return size, (time.perf_counter() - began) / DECODE_BLOCK


def _filled(cache: model.Caches, tokens: int) -> model.Caches:
    """Caches as `tokens` tokens leave them, but for their keys and values."""

    def fill(part: jax.Array) -> jax.Array:
        if part.ndim > 3:
            return part
        slot = jnp.arange(part.shape[-1])
        # The last position that lies in a slot; below zero where none has come there yet.
        at = tokens - 1 - (tokens - 1 - slot) % part.shape[-1]
        return jnp.broadcast_to(jnp.where(at >= 0, at, -1), part.shape).astype(part.dtype)

    return jax.tree.map(fill, cache)
