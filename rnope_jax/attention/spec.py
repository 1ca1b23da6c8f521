"""What an attention layer computes, as a value that every backend reads."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from rnope_jax.layers import reach

#: Added to masked logits; finite, so that a row without visible keys gives no NaN.
MASKED = -1e30

#: Name of what a backend's backward pass would otherwise compute again: its output and log-sum-exp.
#: A policy of `jax.checkpoint` can keep these values by it.
SAVED = "attention"


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """Causal attention of one layer kind."""

    scale: float
    """Factor on the dot products."""
    window: int | None = None
    """Keys that a query sees, as `layers.reach` counts them; None: the whole prefix."""

    def window_within(self, length: int) -> int | None:
        """The window in rows of `length` tokens; None where every query sees its whole prefix."""
        return None if self.window is None or reach(self.window) >= length - 1 else self.window


def visible(query_index: jax.Array, key_index: jax.Array, window: int | None) -> jax.Array:
    """True where the query at one index sees the key at another: the causal mask and the window."""
    mask = key_index <= query_index
    if window is not None:
        mask &= key_index >= query_index - reach(window)
    return mask


def default_scale(head_dim: int) -> float:
    """1 / sqrt(head_dim)."""
    return 1.0 / math.sqrt(head_dim)


def group_heads(q: jax.Array, num_kv_heads: int) -> jax.Array:
    """Splits query heads by the key head that serves them: [B, S, H, D] to [B, S, K, H / K, D]."""
    batch, length, heads, dim = q.shape
    return q.reshape(batch, length, num_kv_heads, heads // num_kv_heads, dim)


def pad_length(x: jax.Array, before: int, after: int, value: float = 0) -> jax.Array:
    """Pads axis 1 (the sequence) of `x`."""
    widths = [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2)
    return jnp.pad(x, widths, constant_values=value) if before or after else x
