"""Exact attention in plain XLA, for any platform, in time and memory that suit the mask.

A window layer scans blocks of queries, each against a static slice of the keys that it can see:
time and memory grow linearly with the sequence. A full layer visits only the tiles of the lower
triangle with an online softmax (FlashAttention-2's recurrences), so that no S x S array ever
exists; its backward pass recomputes the tiles from the saved log-sum-exp.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnope_jax.attention.spec import MASKED, AttentionSpec, group_heads, pad_length, visible

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
    batch, length, heads, dim = q.shape
    block = min(WINDOW_BLOCK, length)
    count = -(-length // block)
    past, padding = window - 1, count * block - length
    span = past + block

    q = pad_length(q, 0, padding)
    k, v = (pad_length(x, past, padding) for x in (k, v))
    if segments is not None:
        q_segments, k_segments = pad_length(segments, 0, padding, -1), pad_length(segments, past, padding, -1)
    band = visible(jnp.arange(block)[:, None] + past, jnp.arange(span)[None, :], window)

    # Recomputed in the backward pass: only the inputs of a block are kept, not its logits.
    @partial(jax.checkpoint, prevent_cse=False)
    def attend_block(start: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        rows = partial(jax.lax.dynamic_slice_in_dim, start_index=start, axis=1)
        queries = group_heads(rows(q, slice_size=block), k.shape[2])
        keys, values = rows(k, slice_size=span), rows(v, slice_size=span)
        logits = jnp.einsum("bskgd,btkd->bkgst", queries, keys, preferred_element_type=jnp.float32) * scale
        mask = (band & (jnp.arange(span) + start >= past))[None]
        if segments is not None:
            own, seen = rows(q_segments, slice_size=block), rows(k_segments, slice_size=span)
            mask &= own[:, :, None] == seen[:, None, :]
        logits = jnp.where(mask[:, None, None], logits, MASKED)
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        return jnp.einsum("bkgst,btkd->bskgd", weights, values).reshape(batch, block, heads, dim)

    def step(carry: None, start: jax.Array) -> tuple[None, jax.Array]:
        return carry, attend_block(start, q, k, v)

    _, blocks = jax.lax.scan(step, None, jnp.arange(count) * block)
    return jnp.moveaxis(blocks, 0, 1).reshape(batch, count * block, heads, dim)[:, :length]


def _tiles(count: int) -> np.ndarray:
    """(query tile, key tile) of the lower triangle, in the order in which they are visited."""
    rows, columns = np.tril_indices(count)
    return np.stack([rows, columns], axis=1).astype(np.int32)


def _split(x: jax.Array, tile: int) -> jax.Array:
    """[B, S, K, ..., D] to tiles [S / tile, B, K, ..., tile, D]."""
    batch, length = x.shape[:2]
    x = x.reshape(batch, length // tile, tile, *x.shape[2:])
    return jnp.moveaxis(jnp.moveaxis(x, 1, 0), 2, -2)


def _join(tiles: jax.Array) -> jax.Array:
    """The inverse of `_split`."""
    x = jnp.moveaxis(jnp.moveaxis(tiles, -2, 2), 0, 1)
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])


def _split_segments(segments: jax.Array | None, tile: int) -> jax.Array | None:
    """[B, S] to [S / tile, B, tile]."""
    if segments is None:
        return None
    return jnp.moveaxis(segments.reshape(segments.shape[0], -1, tile), 1, 0)


def _tile_logits(
    queries: jax.Array, keys: jax.Array, i: jax.Array, j: jax.Array, segments: jax.Array | None, scale: float
) -> jax.Array:
    """Masked logits [B, K, G, tile, tile] of query tile i and key tile j."""
    tile = queries.shape[-2]
    logits = jnp.einsum("bkgsd,bktd->bkgst", queries, keys, preferred_element_type=jnp.float32) * scale
    mask = visible(i * tile + jnp.arange(tile)[:, None], j * tile + jnp.arange(tile)[None, :], None)[None]
    if segments is not None:
        mask &= segments[i][:, :, None] == segments[j][:, None, :]
    return jnp.where(mask[:, None, None], logits, MASKED)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _full(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, scale: float, tile: int
) -> jax.Array:
    return _full_forward(q, k, v, segment_ids, scale, tile)[0]


def _full_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, scale: float, tile: int
) -> tuple[jax.Array, tuple]:
    queries = _split(group_heads(q, k.shape[2]), tile)  # [n, B, K, G, tile, D]
    keys, values = _split(k, tile), _split(v, tile)  # [n, B, K, tile, D]
    segments = _split_segments(segment_ids, tile)

    def step(carry: Any, pair: jax.Array) -> tuple[Any, None]:
        outputs, maxima, sums = carry
        i, j = pair[0], pair[1]
        logits = _tile_logits(queries[i], keys[j], i, j, segments, scale)
        maximum = jnp.maximum(maxima[i], logits.max(-1))
        weights = jnp.exp(logits - maximum[..., None])
        decay = jnp.exp(maxima[i] - maximum)
        update = jnp.einsum("bkgst,bktd->bkgsd", weights.astype(v.dtype), values[j], preferred_element_type=jnp.float32)
        outputs = outputs.at[i].set(outputs[i] * decay[..., None] + update)
        return (outputs, maxima.at[i].set(maximum), sums.at[i].set(sums[i] * decay + weights.sum(-1))), None

    rows = queries.shape[:-1]
    start = (jnp.zeros(queries.shape, jnp.float32), jnp.full(rows, MASKED), jnp.zeros(rows, jnp.float32))
    (outputs, maxima, sums), _ = jax.lax.scan(step, start, jnp.asarray(_tiles(len(queries))))
    outputs = (outputs / sums[..., None]).astype(q.dtype)
    residuals = (q, k, v, segment_ids, outputs, maxima + jnp.log(sums))
    return _join(outputs).reshape(q.shape), residuals


def _full_backward(scale: float, tile: int, residuals: tuple, gradient: jax.Array) -> tuple:
    q, k, v, segment_ids, outputs, log_sums = residuals
    queries, gradients = (_split(group_heads(x, k.shape[2]), tile) for x in (q, gradient))
    keys, values = _split(k, tile), _split(v, tile)
    segments = _split_segments(segment_ids, tile)
    deltas = (gradients.astype(jnp.float32) * outputs.astype(jnp.float32)).sum(-1)
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)

    def step(carry: Any, pair: jax.Array) -> tuple[Any, None]:
        dq, dk, dv = carry
        i, j = pair[0], pair[1]
        weights = jnp.exp(_tile_logits(queries[i], keys[j], i, j, segments, scale) - log_sums[i][..., None])
        dweights = product("bkgsd,bktd->bkgst", gradients[i], values[j])
        dlogits = (weights * (dweights - deltas[i][..., None]) * scale).astype(q.dtype)
        dq = dq.at[i].add(product("bkgst,bktd->bkgsd", dlogits, keys[j]))
        dk = dk.at[j].add(product("bkgst,bkgsd->bktd", dlogits, queries[i]))
        dv = dv.at[j].add(product("bkgst,bkgsd->bktd", weights.astype(q.dtype), gradients[i]))
        return (dq, dk, dv), None

    start = tuple(jnp.zeros(x.shape, jnp.float32) for x in (queries, keys, values))
    (dq, dk, dv), _ = jax.lax.scan(step, start, jnp.asarray(_tiles(len(queries))))
    return _join(dq).reshape(q.shape).astype(q.dtype), _join(dk).astype(k.dtype), _join(dv).astype(v.dtype), None


_full.defvjp(_full_forward, _full_backward)
