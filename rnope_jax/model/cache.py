"""Key-value caches: a ring of as many slots as its window for a window layer, every token for a full one.

A slot remembers the position of its token, and masks are made from these positions; nothing about
one layer is derived from the cache of another.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnope_jax.layers import LayerKind


class LayerCache(NamedTuple):
    """Keys and values of one layer, in the layout that decoding reads without a copy."""

    keys: jax.Array
    """[B, K, T, D], rotated already."""
    values: jax.Array
    """[B, K, T, D]."""
    positions: jax.Array
    """[B, T]: position of each slot's token, -1 where there is none."""


def empty(kind: LayerKind, batch: int, context: int, num_kv_heads: int, head_dim: int, dtype: jnp.dtype) -> LayerCache:
    """A cache without tokens, for sequences of at most `context` tokens."""
    slots = kind.cache_length(context)
    shape = (batch, num_kv_heads, slots, head_dim)
    return LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.full((batch, slots), -1, jnp.int32))


def extend(
    cache: LayerCache, keys: jax.Array, values: jax.Array, positions: jax.Array, window: int | None
) -> tuple[LayerCache, LayerCache]:
    """Appends tokens.

    Args:
      cache: what earlier calls have stored.
      keys: new keys [B, S, K, D].
      values: new values [B, S, K, D].
      positions: [B, S], rising along each row; -1 marks padding, which is not stored.
      window: of the layer, or None; then the cache has a slot for every token.

    Returns:
      The extended cache, and what the new tokens attend to: a cache-shaped value whose slots hold
      at least every key that any of them may see.
    """
    new = LayerCache(keys.swapaxes(1, 2), values.swapaxes(1, 2), positions)
    slots = cache.positions.shape[1]
    # A token that a later one of the same call displaces is not written at all, so that no two
    # tokens of a row write to the same slot.
    last = positions.max(axis=1, keepdims=True)
    kept = (positions >= 0) & (positions > last - slots)
    slot = jnp.where(kept, positions % slots, slots)
    row = jnp.arange(slot.shape[0])[:, None]

    def write(old: jax.Array, update: jax.Array) -> jax.Array:
        # Advanced indices on both sides of a slice put their axes in front: [B, S, K, D].
        return old.at[row, :, slot].set(update.swapaxes(1, 2), mode="drop")

    stored = LayerCache(
        write(cache.keys, new.keys),
        write(cache.values, new.values),
        cache.positions.at[row, slot].set(positions, mode="drop"),
    )
    if window is None or positions.shape[1] == 1:
        return stored, stored  # nothing was displaced, or the one token that had just left the window
    joined = (
        jnp.concatenate(pair, axis=axis) for pair, axis in zip(zip(cache, new, strict=True), (2, 2, 1), strict=True)
    )
    return stored, LayerCache(*joined)
