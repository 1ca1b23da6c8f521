"""Exact attention in plain XLA, for any platform, in time and memory that suit the mask.

A window layer scans blocks of queries, each against a static slice of the keys that it can see:
time and memory grow linearly with the sequence. A full layer visits only the tiles of the lower
triangle with an online softmax (FlashAttention-2's recurrences), so that no S x S array ever
exists; its backward pass recomputes the tiles from the saved log-sum-exp.

Inside, the query heads that share a key head are rows of one matrix: [B, K, G x rows, D] with
G = H / K. Every product is then a plain batched matrix product.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from rnope_jax.attention.spec import MASKED, SAVED, AttentionSpec, pad_length, visible

#: Rows of queries that a window layer handles at a time. Small, so that little is computed outside
#: the window, yet enough to fill a matrix unit.
WINDOW_BLOCK = 64

#: Tile edge of full attention, and the number of tiles per side from which tiles grow, so that the
#: list of tiles stays short for very long sequences.
TILE, MAX_TILES = 256, 512


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    spec: AttentionSpec,
    *,
    segment_ids: jax.Array | None = None,
) -> jax.Array:
    """Causal self-attention of whole rows; arguments and result as `reference.attend`."""
    length = q.shape[1]
    if spec.window is not None and spec.window < length:
        return _windowed(q, k, v, segment_ids, spec.window, spec.scale)
    tile = max(TILE, -(-length // MAX_TILES))
    tile = min(tile, -(-length // 8) * 8)
    padding = -length % tile
    # Padding sits at the end, where causality hides it from every real query.
    segments = None if segment_ids is None else pad_length(segment_ids, 0, padding, -1)
    padded = [pad_length(x, 0, padding) for x in (q, k, v)]
    return _full(*padded, segments, spec.scale, tile)[:, :length]


def _windowed(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, window: int, scale: float
) -> jax.Array:
    length, kv_heads = q.shape[1], k.shape[2]
    block = min(WINDOW_BLOCK, length)
    count = -(-length // block)
    past, padding = window - 1, count * block - length
    span = past + block

    queries = _query_blocks(pad_length(q, 0, padding), kv_heads, block)
    keys, values = (pad_length(x, past, padding).swapaxes(1, 2) for x in (k, v))
    if segments is not None:
        q_segments, k_segments = pad_length(segments, 0, padding, -1), pad_length(segments, past, padding, -1)
    band = visible(jnp.arange(block)[:, None] + past, jnp.arange(span)[None, :], window)

    # Recomputed in the backward pass: only the inputs of a block are kept, not its logits.
    @partial(jax.checkpoint, prevent_cse=False)
    def attend_block(start: jax.Array, queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
        keys, values = (jax.lax.dynamic_slice_in_dim(x, start, span, axis=2) for x in (keys, values))
        mask = (band & (jnp.arange(span) + start >= past))[None]
        if segments is not None:
            own = jax.lax.dynamic_slice_in_dim(q_segments, start, block, axis=1)
            seen = jax.lax.dynamic_slice_in_dim(k_segments, start, span, axis=1)
            mask &= own[:, :, None] == seen[:, None, :]
        weights = jax.nn.softmax(_masked_logits(queries, keys, mask, scale), axis=-1).astype(v.dtype)
        return jnp.einsum("bkst,bktd->bksd", weights, values)

    def step(carry: None, part: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        start, queries = part
        return carry, attend_block(start, queries, keys, values)

    _, outputs = jax.lax.scan(step, None, (jnp.arange(count) * block, queries))
    return checkpoint_name(_join_queries(outputs, block)[:, :length], SAVED)


def _masked_logits(queries: jax.Array, keys: jax.Array, mask: jax.Array, scale: float) -> jax.Array:
    """Logits [B, K, G x rows, columns] in float32 under a mask [B or 1, rows, columns]."""
    logits = jnp.einsum("bksd,bktd->bkst", queries, keys, preferred_element_type=jnp.float32) * scale
    rows, columns = mask.shape[1:]
    grouped = logits.reshape(*logits.shape[:2], -1, rows, columns)
    return jnp.where(mask[:, None, None], grouped, MASKED).reshape(logits.shape)


def _query_blocks(q: jax.Array, kv_heads: int, rows: int) -> jax.Array:
    """[B, S, H, D] to blocks of rows [S / rows, B, K, G x rows, D]."""
    batch, length, heads, dim = q.shape
    group = heads // kv_heads
    q = q.reshape(batch, length // rows, rows, kv_heads, group, dim)
    return q.transpose(1, 0, 3, 4, 2, 5).reshape(length // rows, batch, kv_heads, group * rows, dim)


def _join_queries(blocks: jax.Array, rows: int) -> jax.Array:
    """The inverse of `_query_blocks`."""
    count, batch, kv_heads, _, dim = blocks.shape
    blocks = blocks.reshape(count, batch, kv_heads, -1, rows, dim).transpose(1, 0, 4, 2, 3, 5)
    return blocks.reshape(batch, count * rows, -1, dim)


def _key_blocks(k: jax.Array, rows: int) -> jax.Array:
    """[B, S, K, D] to blocks of rows [S / rows, B, K, rows, D]."""
    return _query_blocks(k, k.shape[2], rows)


def _tiles(count: int) -> jax.Array:
    """(query tile, key tile) of the lower triangle, in the order in which they are visited."""
    return jnp.asarray(np.stack(np.tril_indices(count), axis=1).astype(np.int32))


def _tile_logits(
    queries: jax.Array, keys: jax.Array, i: jax.Array, j: jax.Array, segments: jax.Array | None, scale: float
) -> jax.Array:
    """Masked logits of query tile i and key tile j; `segments` [B, S / tile, tile]."""
    tile = keys.shape[-2]
    mask = visible(i * tile + jnp.arange(tile)[:, None], j * tile + jnp.arange(tile)[None, :], None)[None]
    if segments is not None:
        mask &= segments[:, i, :, None] == segments[:, j, None, :]
    return _masked_logits(queries, keys, mask, scale)


def _split_segments(segment_ids: jax.Array | None, tile: int) -> jax.Array | None:
    return None if segment_ids is None else segment_ids.reshape(segment_ids.shape[0], -1, tile)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _full(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, scale: float, tile: int
) -> jax.Array:
    return _full_forward(q, k, v, segment_ids, scale, tile)[0]


def _full_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, scale: float, tile: int
) -> tuple[jax.Array, tuple]:
    queries = _query_blocks(q, k.shape[2], tile)
    keys, values = _key_blocks(k, tile), _key_blocks(v, tile)
    segments = _split_segments(segment_ids, tile)

    def step(carry: Any, pair: jax.Array) -> tuple[Any, None]:
        outputs, maxima, sums = carry
        i, j = pair[0], pair[1]
        logits = _tile_logits(queries[i], keys[j], i, j, segments, scale)
        maximum = jnp.maximum(maxima[i], logits.max(-1))
        weights = jnp.exp(logits - maximum[..., None])
        decay = jnp.exp(maxima[i] - maximum)
        update = jnp.einsum("bkst,bktd->bksd", weights.astype(v.dtype), values[j], preferred_element_type=jnp.float32)
        outputs = outputs.at[i].set(outputs[i] * decay[..., None] + update)
        return (outputs, maxima.at[i].set(maximum), sums.at[i].set(sums[i] * decay + weights.sum(-1))), None

    rows = queries.shape[:-1]
    start = (jnp.zeros(queries.shape, jnp.float32), jnp.full(rows, MASKED), jnp.zeros(rows, jnp.float32))
    (outputs, maxima, sums), _ = jax.lax.scan(step, start, _tiles(len(queries)))
    outputs = checkpoint_name((outputs / sums[..., None]).astype(q.dtype), SAVED)
    log_sums = checkpoint_name(maxima + jnp.log(sums), SAVED)
    return _join_queries(outputs, tile), (q, k, v, segment_ids, outputs, log_sums)


def _full_backward(scale: float, tile: int, residuals: tuple, gradient: jax.Array) -> tuple:
    q, k, v, segment_ids, outputs, log_sums = residuals
    queries, gradients = (_query_blocks(x, k.shape[2], tile) for x in (q, gradient))
    keys, values = _key_blocks(k, tile), _key_blocks(v, tile)
    segments = _split_segments(segment_ids, tile)
    deltas = (gradients.astype(jnp.float32) * outputs.astype(jnp.float32)).sum(-1)
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)

    def step(carry: Any, pair: jax.Array) -> tuple[Any, None]:
        dq, dk, dv = carry
        i, j = pair[0], pair[1]
        weights = jnp.exp(_tile_logits(queries[i], keys[j], i, j, segments, scale) - log_sums[i][..., None])
        dweights = product("bksd,bktd->bkst", gradients[i], values[j])
        dlogits = (weights * (dweights - deltas[i][..., None]) * scale).astype(q.dtype)
        dq = dq.at[i].add(product("bkst,bktd->bksd", dlogits, keys[j]))
        dk = dk.at[j].add(product("bkst,bksd->bktd", dlogits, queries[i]))
        dv = dv.at[j].add(product("bkst,bksd->bktd", weights.astype(q.dtype), gradients[i]))
        return (dq, dk, dv), None

    start = tuple(jnp.zeros(x.shape, jnp.float32) for x in (queries, keys, values))
    (dq, dk, dv), _ = jax.lax.scan(step, start, _tiles(len(queries)))
    dq, dk, dv = (_join_queries(x, tile) for x in (dq, dk, dv))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_full.defvjp(_full_forward, _full_backward)
