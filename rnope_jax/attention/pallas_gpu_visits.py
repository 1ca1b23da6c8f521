"""Which tiles of the logits the GPU kernels visit, and in which of them every pair is visible.

A program of a kernel owns a tile of queries (or of keys) and goes through the tiles of keys (or of queries)
that it may meet. In a causal band these are an interval, and so are those among them that are visible
throughout; documents narrow both. Four numbers per program tell it all: it masks the tiles from `first` to
`whole`, does not mask those from `whole` to `edge`, and masks those from `edge` to `last`. What lies outside
is neither loaded nor computed. XLA makes the table from the segment ids, in little time beside the kernels.
"""

import jax
import jax.numpy as jnp

from rnope_jax.attention.pallas_gpu_tiles import Tiles
from rnope_jax.layers import reach

#: Bisection would be a loop of many small kernels; comparing all is one.
_METHOD = "compare_all"


def by_query(
    starts: jax.Array,
    tiles: Tiles,
    length: int,
    window: int | None,
    segments: jax.Array | None = None,
    key_segments: jax.Array | None = None,
) -> jax.Array:
    """The tiles of keys that each tile of queries visits.

    Args:
      starts: where among the keys the first query of each tile stands, rising [query tiles].
      tiles: the sizes of both.
      length: number of keys, whole tiles.
      window: keys that a query sees, itself included; None: the whole prefix.
      segments: document of each query [B, S]; None: one document.
      key_segments: document of each key [B, length].

    Returns:
      first, whole, edge, last [B or 1, query tiles, 4].
    """
    final, count = starts + tiles.queries - 1, length // tiles.keys
    first = jnp.zeros_like(starts) if window is None else jnp.maximum(starts - reach(window), 0) // tiles.keys
    last = jnp.minimum(final // tiles.keys + 1, count)
    whole = first if window is None else (final - reach(window) - 1) // tiles.keys + 1
    visits = _ordered(first, whole, (starts + 1) // tiles.keys, last)
    if segments is None or key_segments is None:
        return visits
    shared, same = _documents(tiles, segments, key_segments)
    # Of the tiles before it a query shares its document with the last ones.
    return _narrow(visits, shared, same, last_run=True)


def by_key(
    starts: jax.Array,
    tiles: Tiles,
    length: int,
    window: int | None,
    segments: jax.Array | None = None,
    key_segments: jax.Array | None = None,
) -> jax.Array:
    """The tiles of queries that each tile of keys visits [B or 1, key tiles, 4]; arguments as `by_query`."""
    low = jnp.arange(length // tiles.keys) * tiles.keys
    high = low + tiles.keys - 1
    first = jnp.searchsorted(starts, low - tiles.queries + 1, method=_METHOD)
    last = edge = jnp.full_like(first, len(starts))
    if window is not None:
        last = jnp.searchsorted(starts, high + reach(window), side="right", method=_METHOD)
        edge = jnp.searchsorted(starts, low + reach(window) + 1 - tiles.queries, side="right", method=_METHOD)
    visits = _ordered(first, jnp.searchsorted(starts, high, method=_METHOD), edge, last)
    if segments is None or key_segments is None:
        return visits
    shared, same = (x.swapaxes(1, 2) for x in _documents(tiles, segments, key_segments))
    return _narrow(visits, shared, same, last_run=False)


def _documents(tiles: Tiles, segments: jax.Array, key_segments: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether two tiles may share a document, and whether all of both is one document [B, query tiles, key tiles].

    By the least and the largest number in each tile: exact where documents lie one after the other, and never
    wrong where they do not.
    """
    batch = segments.shape[0]
    q, k = segments.reshape(batch, -1, tiles.queries), key_segments.reshape(batch, -1, tiles.keys)
    q_low, q_high, k_low, k_high = q.min(-1), q.max(-1), k.min(-1), k.max(-1)
    shared = (q_low[:, :, None] <= k_high[:, None]) & (k_low[:, None] <= q_high[:, :, None])
    return shared, (q_low[:, :, None] == k_high[:, None]) & (k_low[:, None] == q_high[:, :, None])


def _narrow(visits: jax.Array, shared: jax.Array, same: jax.Array, *, last_run: bool) -> jax.Array:
    """Takes away what shares no document, and masks what may not be one document.

    Args:
      visits: those of the band [1, n, 4].
      shared: whether two tiles may share a document [B, n, others].
      same: whether all of both is one document [B, n, others].
      last_run: which run of whole tiles stays unmasked if there are several, the last or the first.
    """
    others = jnp.arange(shared.shape[-1])
    first, whole, edge, last = (visits[..., part] for part in range(4))
    met = shared & (others >= first[..., None]) & (others < last[..., None])
    torn = ~same & (others >= whole[..., None]) & (others < edge[..., None])
    if last_run:
        whole = jnp.maximum(whole, jnp.where(torn, others + 1, 0).max(-1))
    else:
        edge = jnp.minimum(edge, jnp.where(torn, others, len(others)).min(-1))
    return _ordered(
        jnp.where(met, others, last[..., None]).min(-1), whole, edge, jnp.where(met, others + 1, 0).max(-1)
    )[0]


def _ordered(first: jax.Array, whole: jax.Array, edge: jax.Array, last: jax.Array) -> jax.Array:
    """The four numbers as a table, rising: an interval that is empty stays within the others."""
    last = jnp.maximum(last, first)
    whole = jnp.clip(whole, first, last)
    edge = jnp.clip(edge, whole, last)
    return jnp.stack(jnp.broadcast_arrays(first, whole, edge, last), axis=-1)[None].astype(jnp.int32)
