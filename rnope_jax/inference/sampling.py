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
        least = jax.lax.top_k(logits, settings.top_k)[0][:, -1:]
        logits = jnp.where(logits < least, MASKED, logits)
    if settings.top_p is not None and settings.top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        # A token stays if the likelier ones do not reach p without it; the likeliest always does.
        kept = jnp.cumsum(probabilities, axis=-1) - probabilities < settings.top_p
        least = jnp.where(kept, ordered, jnp.inf).min(axis=-1, keepdims=True)
        logits = jnp.where(logits < least, MASKED, logits)
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)
