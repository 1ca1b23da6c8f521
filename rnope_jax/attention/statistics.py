"""Where attention goes: its mass on groups of keys and its entropy, without all weights in memory.

Keys are visited in blocks, twice: the first time for the normaliser of each query, the second for
the weights themselves, which are summed up at once. Memory does not grow with the number of keys.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnope_jax.attention.spec import MASKED, AttentionSpec, group_heads, visible

#: Keys that are worked on at a time.
BLOCK = 2048

#: Sums that a pass over the keys carries along.
_Carry = tuple[jax.Array, ...]


class Statistics(NamedTuple):
    """Of one layer, by query head, averaged over the queries of all rows."""

    mass: jax.Array
    """[H, groups]: the sum of the weights of each group's keys."""
    entropy: jax.Array
    """[H]: entropy of the weights in bits."""
    relative_entropy: jax.Array
    """[H]: entropy divided by that of even attention to the keys that the query sees; 0 where it sees one."""


def statistics(
    q: jax.Array,
    keys: jax.Array,
    spec: AttentionSpec,
    *,
    q_positions: jax.Array,
    k_positions: jax.Array,
    query_weights: jax.Array,
    groups: jax.Array,
    num_groups: int,
) -> Statistics:
    """The weights that queries give to the slots of a cache, summed up.

    Args:
      q: queries [B, S, H, D]; query head h reads key head h // (H / K).
      keys: [B, K, T, D], in any order.
      spec: window and scale.
      q_positions: [B, S].
      k_positions: [B, T]; negative marks an empty slot, which nobody sees.
      query_weights: [B, S]: what each query counts in the averages; at least one is positive.
      groups: [B, N]: the group of the key at each position; a negative one counts in the entropy only.
      num_groups: how many groups there are.
    """
    slots, size = keys.shape[2], min(BLOCK, keys.shape[2])
    grouped = group_heads(q, keys.shape[1])
    weights = query_weights.astype(jnp.float32)[:, None, None, :] / query_weights.sum()

    def logits(block: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Logits [B, K, H / K, S, keys] of a block of slots, their mask [B, 1, 1, S, keys] and positions."""
        # The last block is moved back to be whole; what it shares with the one before is masked.
        start = jnp.minimum(block * size, slots - size)
        k = jax.lax.dynamic_slice_in_dim(keys, start, size, axis=2)
        at = jax.lax.dynamic_slice_in_dim(k_positions, start, size, axis=1)
        mask = visible(q_positions[:, :, None], at[:, None], spec.window) & (at >= 0)[:, None]
        mask = (mask & (jnp.arange(size) >= block * size - start))[:, None, None]
        found = jnp.einsum("bskgd,bktd->bkgst", grouped, k, preferred_element_type=jnp.float32) * spec.scale
        return jnp.where(mask, found, MASKED), mask, at

    def over_blocks(step: Callable[[jax.Array, _Carry], _Carry], start: _Carry) -> _Carry:
        return jax.lax.fori_loop(0, -(-slots // size), step, start)

    shape = (*grouped.shape[:1], *grouped.shape[2:4], grouped.shape[1])  # [B, K, H / K, S]

    def normalise(block: jax.Array, carry: _Carry) -> _Carry:
        maxima, sums, count = carry
        found, mask, _ = logits(block)
        maximum = jnp.maximum(maxima, found.max(-1))
        sums = sums * jnp.exp(maxima - maximum) + jnp.where(mask, jnp.exp(found - maximum[..., None]), 0).sum(-1)
        return maximum, sums, count + mask.sum(-1)

    zero = jnp.zeros(shape, jnp.float32)
    count = jnp.zeros((shape[0], 1, 1, shape[3]), jnp.int32)
    maxima, sums, count = over_blocks(normalise, (jnp.full(shape, MASKED), zero, count))
    normaliser = maxima + jnp.log(jnp.maximum(sums, jnp.finfo(jnp.float32).tiny))

    def add_up(block: jax.Array, carry: _Carry) -> _Carry:
        mass, entropy = carry
        found, mask, at = logits(block)
        log_share = jnp.where(mask, found - normaliser[..., None], 0)
        share = jnp.where(mask, jnp.exp(log_share), 0)
        entropy -= (share * log_share).sum(-1)
        mean = (share * weights[..., None]).sum(3).reshape(shape[0], -1, size)  # [B, H, keys]
        group = jnp.take_along_axis(groups, jnp.clip(at, 0, groups.shape[1] - 1), axis=1)
        # A product adds up many small weights more exactly than one by one. What is in no group is zero everywhere.
        one_hot = jax.nn.one_hot(group, num_groups, dtype=mean.dtype)
        added = jnp.einsum("bht,btg->hg", mean, one_hot, precision=jax.lax.Precision.HIGHEST)
        return mass + added, entropy

    mass, entropy = over_blocks(add_up, (jnp.zeros((q.shape[2], num_groups), jnp.float32), zero))
    bits = entropy / jnp.log(2.0)
    relative = jnp.where(count > 1, bits / jnp.log2(jnp.maximum(count, 2)), 0)
    by_head = (((values * weights).sum((0, 3))).reshape(-1) for values in (bits, relative))
    return Statistics(mass, *by_head)
