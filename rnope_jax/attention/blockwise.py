"""Exact attention in plain XLA, for any platform, in time and memory that suit the mask.

A window layer scans blocks of queries, each against a static slice of the keys that it can see:
time and memory grow linearly with the sequence. A full layer visits only the tiles of the lower
triangle with an online softmax (FlashAttention-2's recurrences), so that no S x S array ever
exists, and of those only the ones in which some query and key may be of one document; its backward
pass recomputes the tiles from the saved log-sum-exp.

Inside, the query heads that share a key head are rows of one matrix: [B, K, G x rows, D] with
G = H / K. Every product is then a plain batched matrix product.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from rnope_jax.attention.spec import MASKED, SAVED, AttentionSpec, pad_length, visible
from rnope_jax.layers import reach

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
    if (window := spec.window_within(length)) is not None:
        return _windowed(q, k, v, segment_ids, window, spec.scale)
    tile = max(TILE, -(-length // MAX_TILES))
    tile = min(tile, -(-length // 8) * 8)
    padding = -length % tile
    # Padding sits at the end, where causality hides it from every real query.
    segments = None if segment_ids is None else pad_length(segment_ids, 0, padding, -1)
    padded = [pad_length(x, 0, padding) for x in (q, k, v)]
    index = jnp.arange(length + padding)
    tiles = jnp.asarray(_lower_triangle(0, len(index) // tile))
    return _full(*padded, segments, segments, tiles, index, spec.scale, tile)[:, :length]


def attend_chunks(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    scale: float,
    chunks: jax.Array,
    size: int,
    *,
    segments: jax.Array,
    key_segments: jax.Array,
) -> jax.Array:
    """Full causal attention of two chunks of a row to the whole row.

    Args:
      q: the queries of both chunks [B, 2 x size, H, D].
      k: the keys of the row [B, S, K, D].
      v: its values.
      scale: factor on the dot products.
      chunks: which two of the row's chunks these are [2]; known only when it runs, but their sum is always
        that of the first and the last, so that the work is always the same.
      size: tokens in a chunk.
      segments: document of each query [B, 2 x size].
      key_segments: document of each key [B, S].
    """
    count = k.shape[1] // size
    tile = next(t for t in range(min(TILE, size), 0, -1) if size % t == 0)
    per_chunk = size // tile
    # For each pair of chunks that there may be, the tiles of its queries and those of the keys that they see.
    after = np.array([per_chunk, 0], np.int32)  # the tiles of the second chunk of queries follow those of the first
    tables = [
        np.concatenate(
            [
                _lower_triangle(low * per_chunk, per_chunk),
                _lower_triangle((count - 1 - low) * per_chunk, per_chunk) + after,
            ]
        )
        for low in range(count // 2)
    ]
    index = (chunks[:, None] * size + jnp.arange(size)).reshape(-1)
    tiles = jnp.asarray(np.stack(tables))[chunks[0]]
    return _full(q, k, v, segments, key_segments, tiles, index, scale, tile)


def _windowed(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, window: int, scale: float
) -> jax.Array:
    past = reach(window)
    keys, values = (pad_length(x, past, 0) for x in (k, v))
    if segments is None:
        return attend_band(q, keys, values, window, scale, absent=past)
    return attend_band(
        q, keys, values, window, scale, segments=segments, key_segments=pad_length(segments, past, 0, -1)
    )


def attend_band(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    window: int,
    scale: float,
    *,
    segments: jax.Array | None = None,
    key_segments: jax.Array | None = None,
    absent: int = 0,
) -> jax.Array:
    """Windowed attention of queries to themselves and to the keys before them.

    Args:
      q: queries [B, S, H, D].
      k: keys [B, reach(window) + S, K, D]: those before the first query, then its own and the following.
      v: values, likewise.
      window: keys that a query sees, itself included.
      scale: factor on the dot products.
      segments: document of each query [B, S], or None.
      key_segments: document of each key [B, reach(window) + S], or None.
      absent: how many of the first keys are not there.
    """
    length, kv_heads = q.shape[1], k.shape[2]
    block = min(WINDOW_BLOCK, length)
    count = -(-length // block)
    past, padding = reach(window), count * block - length
    span = past + block

    queries = _query_blocks(pad_length(q, 0, padding), kv_heads, block)
    keys, values = (pad_length(x, 0, padding).swapaxes(1, 2) for x in (k, v))
    if segments is not None and key_segments is not None:
        q_segments, k_segments = (pad_length(x, 0, padding, -1) for x in (segments, key_segments))
    band = visible(jnp.arange(block)[:, None] + past, jnp.arange(span)[None, :], window)

    # Recomputed in the backward pass: only the inputs of a block are kept, not its logits.
    @partial(jax.checkpoint, prevent_cse=False)
    def attend_block(start: jax.Array, queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
        queries, start = jax.lax.optimization_barrier((queries, start))  # as in `_Tiles.logits`
        keys, values = (jax.lax.dynamic_slice_in_dim(x, start, span, axis=2) for x in (keys, values))
        mask = (band & (jnp.arange(span) + start >= absent))[None]
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


def _lower_triangle(first: int, count: int) -> np.ndarray:
    """(query tile, key tile) as they are visited, for `count` tiles of queries, of which the first is tile `first`."""
    return np.asarray([(i, j) for i in range(count) for j in range(first + i + 1)], np.int32)


class _Tiles(NamedTuple):
    """What tiles of the logits are masked by."""

    places: jax.Array
    """Index in the row of each query [tiles, tile]."""
    segments: jax.Array | None
    """[B, tiles, tile]"""
    key_segments: jax.Array | None

    def logits(self, queries: jax.Array, keys: jax.Array, i: jax.Array, j: jax.Array, scale: float) -> jax.Array:
        """Masked logits of query tile i and key tile j."""
        tile = keys.shape[-2]
        # What does not follow from the queries would be the same in every layer, so a scan over layers makes it once:
        # the masks of all tiles, a byte for each pair of tokens. They are tied to the queries.
        queries, i, j = jax.lax.optimization_barrier((queries, i, j))
        mask = visible(self.places[i][:, None], j * tile + jnp.arange(tile)[None, :], None)[None]
        if self.segments is not None and self.key_segments is not None:
            mask &= self.segments[:, i, :, None] == self.key_segments[:, j, None, :]
        return _masked_logits(queries, keys, mask, scale)

    def scan(self, visit: Callable[[Any, jax.Array, jax.Array], Any], start: Any, tiles: jax.Array) -> Any:
        """What `visit` makes of `start`, one pair of tiles [P, 2] after another, where a query may see a key."""
        if self.segments is None or self.key_segments is None:
            return jax.lax.scan(lambda carry, pair: (visit(carry, pair[0], pair[1]), None), start, tiles)[0]

        # Tiles that share a document have ids in common; packed rows number their documents in order, so that ids of
        # tiles that share none lie apart. In any other order tiles may be visited in vain, but none is left out.
        (low, high), (key_low, key_high) = (
            (ids.min(-1)[:, of], ids.max(-1)[:, of])
            for ids, of in zip((self.segments, self.key_segments), tiles.T, strict=True)
        )
        needed = ((low <= key_high) & (key_low <= high)).any(0)

        def step(carry: Any, of: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            (i, j), needed = of
            return jax.lax.cond(needed, visit, lambda carry, i, j: carry, carry, i, j), None

        return jax.lax.scan(step, start, (tiles, needed))[0]


def _split_tiles(index: jax.Array, segments: jax.Array | None, key_segments: jax.Array | None, tile: int) -> _Tiles:
    split = [None if x is None else x.reshape(x.shape[0], -1, tile) for x in (segments, key_segments)]
    return _Tiles(index.reshape(-1, tile), *split)


@partial(jax.custom_vjp, nondiff_argnums=(7, 8))
def _full(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None,
    key_segments: jax.Array | None,
    tiles: jax.Array,
    index: jax.Array,
    scale: float,
    tile: int,
) -> jax.Array:
    """Causal attention of queries at `index` [S] of a row to its keys, over pairs of tiles [P, 2]."""
    return _full_forward(q, k, v, segments, key_segments, tiles, index, scale, tile)[0]


def _full_forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None,
    key_segments: jax.Array | None,
    tiles: jax.Array,
    index: jax.Array,
    scale: float,
    tile: int,
) -> tuple[jax.Array, tuple]:
    queries = _query_blocks(q, k.shape[2], tile)
    keys, values = _key_blocks(k, tile), _key_blocks(v, tile)
    masks = _split_tiles(index, segments, key_segments, tile)

    def visit(carry: Any, i: jax.Array, j: jax.Array) -> Any:
        outputs, maxima, sums = carry
        logits = masks.logits(queries[i], keys[j], i, j, scale)
        maximum = jnp.maximum(maxima[i], logits.max(-1))
        weights = jnp.exp(logits - maximum[..., None])
        decay = jnp.exp(maxima[i] - maximum)
        update = jnp.einsum("bkst,bktd->bksd", weights.astype(v.dtype), values[j], preferred_element_type=jnp.float32)
        outputs = outputs.at[i].set(outputs[i] * decay[..., None] + update)
        return outputs, maxima.at[i].set(maximum), sums.at[i].set(sums[i] * decay + weights.sum(-1))

    rows = queries.shape[:-1]
    start = (jnp.zeros(queries.shape, jnp.float32), jnp.full(rows, MASKED), jnp.zeros(rows, jnp.float32))
    outputs, maxima, sums = masks.scan(visit, start, tiles)
    outputs = checkpoint_name((outputs / sums[..., None]).astype(q.dtype), SAVED)
    log_sums = checkpoint_name(maxima + jnp.log(sums), SAVED)
    return _join_queries(outputs, tile), (q, k, v, segments, key_segments, tiles, index, outputs, log_sums)


def _full_backward(scale: float, tile: int, residuals: tuple, gradient: jax.Array) -> tuple:
    q, k, v, segments, key_segments, tiles, index, outputs, log_sums = residuals
    queries, gradients = (_query_blocks(x, k.shape[2], tile) for x in (q, gradient))
    keys, values = _key_blocks(k, tile), _key_blocks(v, tile)
    masks = _split_tiles(index, segments, key_segments, tile)
    deltas = (gradients.astype(jnp.float32) * outputs.astype(jnp.float32)).sum(-1)
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)

    def visit(carry: Any, i: jax.Array, j: jax.Array) -> Any:
        dq, dk, dv = carry
        weights = jnp.exp(masks.logits(queries[i], keys[j], i, j, scale) - log_sums[i][..., None])
        dweights = product("bksd,bktd->bkst", gradients[i], values[j])
        dlogits = (weights * (dweights - deltas[i][..., None]) * scale).astype(q.dtype)
        dq = dq.at[i].add(product("bkst,bktd->bksd", dlogits, keys[j]))
        dk = dk.at[j].add(product("bkst,bksd->bktd", dlogits, queries[i]))
        dv = dv.at[j].add(product("bkst,bksd->bktd", weights.astype(q.dtype), gradients[i]))
        return dq, dk, dv

    start = tuple(jnp.zeros(x.shape, jnp.float32) for x in (queries, keys, values))
    dq, dk, dv = masks.scan(visit, start, tiles)
    dq, dk, dv = (_join_queries(x, tile) for x in (dq, dk, dv))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None, None, None


_full.defvjp(_full_forward, _full_backward)
