"""Attention to a cache: few queries, many keys, in the layout in which the cache is kept.

The query heads that share a key head are rows of one matrix, so keys and values are read once and
never repeated or transposed. A chunk of a prompt visits the slots in blocks with an online softmax:
its memory does not grow with the context, and slots that hold nothing yet are not visited.
"""

import jax
import jax.numpy as jnp

from rnope_jax.attention.spec import MASKED, AttentionSpec, visible

#: Slots that a chunk of queries works on at a time; it bounds the logits.
SLOT_BLOCK = 512


def attend(
    q: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    spec: AttentionSpec,
    *,
    q_positions: jax.Array,
    k_positions: jax.Array,
    filled: jax.Array | None = None,
) -> jax.Array:
    """Attention of queries at given positions to the slots of a cache.

    Args:
      q: queries [B, S, H, D]; query head h reads key head h // (H / K).
      keys: [B, K, T, D], in any order.
      values: [B, K, T, D].
      spec: window and scale.
      q_positions: [B, S]; the result of a query at a negative one means nothing.
      k_positions: [B, T]; negative marks an empty slot, which nobody sees.
      filled: all slots from this one on are empty; None: any slot may hold a token.

    Returns:
      [B, S, H, D] in the type of `q`; logits and softmax are float32.
    """
    batch, length, _, dim = q.shape
    kv_heads, slots = keys.shape[1:3]
    rows = q.reshape(batch, length, kv_heads, -1, dim).transpose(0, 2, 3, 1, 4).reshape(batch, kv_heads, -1, dim)

    def logits(keys: jax.Array, positions: jax.Array, from_slot: jax.Array | int = 0) -> jax.Array:
        """Masked logits [B, K, G x S, slots]; the first `from_slot` slots are left out."""
        found = jnp.einsum("bkrd,bktd->bkrt", rows, keys, preferred_element_type=jnp.float32) * spec.scale
        seen = positions[:, None, :]
        mask = visible(q_positions[:, :, None], seen, spec.window) & (seen >= 0)
        mask &= jnp.arange(positions.shape[1]) >= from_slot
        grouped = found.reshape(batch, kv_heads, -1, length, found.shape[-1])
        return jnp.where(mask[:, None, None], grouped, MASKED).reshape(found.shape)

    def split(mixed: jax.Array) -> jax.Array:
        mixed = mixed.reshape(batch, kv_heads, -1, length, dim).transpose(0, 3, 1, 2, 4)
        return mixed.reshape(q.shape).astype(q.dtype)

    if length == 1 or slots <= SLOT_BLOCK:
        weights = jax.nn.softmax(logits(keys, k_positions), axis=-1).astype(values.dtype)
        return split(jnp.einsum("bkrt,bktd->bkrd", weights, values))

    def step(block: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        outputs, maxima, sums = carry
        # The last block is moved back to be whole; what it shares with the one before is masked.
        start = jnp.minimum(block * SLOT_BLOCK, slots - SLOT_BLOCK)
        k, v = (jax.lax.dynamic_slice_in_dim(x, start, SLOT_BLOCK, axis=2) for x in (keys, values))
        positions = jax.lax.dynamic_slice_in_dim(k_positions, start, SLOT_BLOCK, axis=1)
        found = logits(k, positions, block * SLOT_BLOCK - start)
        maximum = jnp.maximum(maxima, found.max(-1))
        weights = jnp.exp(found - maximum[..., None])
        decay = jnp.exp(maxima - maximum)
        update = jnp.einsum("bkrt,bktd->bkrd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return outputs * decay[..., None] + update, maximum, sums * decay + weights.sum(-1)

    end = slots if filled is None else jnp.clip(filled, 1, slots)  # at least one block, so that no sum is 0
    start = (
        jnp.zeros(rows.shape, jnp.float32),
        jnp.full(rows.shape[:-1], MASKED),
        jnp.zeros(rows.shape[:-1], jnp.float32),
    )
    outputs, _, sums = jax.lax.fori_loop(0, -(-end // SLOT_BLOCK), step, start)
    return split(outputs / sums[..., None])
