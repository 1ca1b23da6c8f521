"""From logits to the next token."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from rnope_jax.attention.spec import MASKED
from rnope_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 0.0
    """0 takes the likeliest token; 1 draws from the model's distribution."""
    top_k: int | None = None
    """Draw from the likeliest k tokens only."""
    top_p: float | None = None
    """Draw from the likeliest tokens whose probabilities reach p together."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:  # false of NaN, too
            raise UserError(f"temperature = {self.temperature}: must be 0 (the likeliest token) or more, and finite")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k = {self.top_k}: must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p = {self.top_p}: must be above 0 and at most 1")


#: The likeliest token every time.
GREEDY = Sampling()


def sample(logits: jax.Array, key: jax.Array, settings: Sampling) -> jax.Array:
    """Draws a token [B] for each row of logits [B, V]."""
    if settings.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / settings.temperature
    if settings.top_k is not None and settings.top_k < logits.shape[-1]:
        logits = _keep(logits, jnp.ones_like(logits), settings.top_k)
    if settings.top_p is not None and settings.top_p < 1:
        logits = _keep(logits, jax.nn.softmax(logits, axis=-1), settings.top_p)
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)


def _keep(logits: jax.Array, weights: jax.Array, enough: float) -> jax.Array:
    """Masks all but the likeliest tokens [B, V] whose weights [B, V] reach `enough` together; ties stay together.

    The least logit that stays is found bit by bit, each with one pass over the row: to sort a large
    vocabulary takes far longer.
    """
    bits = jax.lax.bitcast_convert_type(logits.astype(jnp.float32), jnp.uint32)
    # Ordered as the numbers are: negative ones have their first bit set, and grow downwards.
    ordered = jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))

    def step(index: jax.Array, least: jax.Array) -> jax.Array:
        higher = least | (jnp.uint32(1 << 31) >> index.astype(jnp.uint32))
        reached = jnp.where(ordered >= higher, weights, 0).sum(axis=-1, keepdims=True)
        return jnp.where(reached >= enough, higher, least)

    least = jax.lax.fori_loop(0, 32, step, jnp.zeros((*logits.shape[:-1], 1), jnp.uint32))
    return jnp.where(ordered >= least, logits, MASKED)
