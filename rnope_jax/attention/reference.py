"""The readable definition of attention: every other backend must agree with it."""

import jax
import jax.numpy as jnp

from rnope_jax.attention.spec import MASKED, AttentionSpec, group_heads, visible


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    spec: AttentionSpec,
    *,
    segment_ids: jax.Array | None = None,
) -> jax.Array:
    """Causal self-attention of whole rows, with every logit in memory.

    Args:
      q: queries [B, S, H, D].
      k: keys [B, S, K, D]; query head h reads key head h // (H / K).
      v: values [B, S, K, D].
      spec: window and scale.
      segment_ids: document of each token [B, S]; tokens see their own document only.

    Returns:
      [B, S, H, D] in the type of `q`; logits and softmax are float32.
    """
    index = jnp.arange(q.shape[1])
    mask = visible(index[:, None], index[None, :], spec.window)[None]
    if segment_ids is not None:
        mask &= segment_ids[:, :, None] == segment_ids[:, None, :]
    return attend_masked(q, k, v, mask, spec.scale)


def attend_positions(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    spec: AttentionSpec,
    *,
    q_positions: jax.Array,
    k_positions: jax.Array,
) -> jax.Array:
    """Attention of queries at given positions to keys at given positions: what `cached.attend` computes.

    Args:
      q: queries [B, S, H, D].
      k: keys [B, T, K, D], in any order.
      v: values [B, T, K, D].
      spec: window and scale.
      q_positions: [B, S].
      k_positions: [B, T]; negative marks an empty slot, which nobody sees.

    Returns:
      [B, S, H, D] in the type of `q`.
    """
    keys = k_positions[:, None, :]
    mask = visible(q_positions[:, :, None], keys, spec.window) & (keys >= 0)
    return attend_masked(q, k, v, mask, spec.scale)


def attend_masked(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scale: float) -> jax.Array:
    """Softmax attention under an explicit mask [B or 1, S, T]."""
    grouped = group_heads(q, k.shape[2])
    logits = jnp.einsum("bskgd,btkd->bkgst", grouped, k, preferred_element_type=jnp.float32) * scale
    logits = jnp.where(mask[:, None, None], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgst,btkd->bskgd", weights, v).reshape(q.shape)
