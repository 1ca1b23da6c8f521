"""Splash attention for a part of a row, when devices share it (`context`); as the functions of `blockwise`."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel import SplashAttentionKernel
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

from rnope_jax.attention.device import target
from rnope_jax.attention.spec import pad_length
from rnope_jax.attention.splash import apply, blocks_for, check_platform, is_interpreted, make_kernel
from rnope_jax.attention.splash_blocks import LANES, Blocks, check_table
from rnope_jax.attention.splash_masks import key_table, query_table
from rnope_jax.errors import UserError
from rnope_jax.layers import reach


def attend_band(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    window: int,
    scale: float,
    *,
    segments: jax.Array,
    key_segments: jax.Array,
) -> jax.Array:
    """Windowed attention of queries to themselves and to the keys before them; see `blockwise.attend_band`."""
    check_platform(target()[0])
    blocks = _dividing(blocks_for(q, window), q.shape[1])
    # Whole blocks of keys before the queries; those in front of the window belong to no document.
    missing = -reach(window) % blocks.keys
    k, v = (pad_length(x, missing, 0) for x in (k, v))
    key_segments = pad_length(key_segments, missing, 0, -1)
    kernel = _band_kernel(q.shape[1], k.shape[1], window, blocks, is_interpreted())
    return apply(kernel, q, k, v, SegmentIds(segments, key_segments), scale)


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
    """Full causal attention of two chunks of a row to the whole row; see `blockwise.attend_chunks`."""
    check_platform(target()[0])
    blocks = _dividing(blocks_for(q, None), size)
    tables = _chunk_tables(size, k.shape[1], blocks)
    # Which device this is shows only when it runs: each has its own tables, of the same shape.
    by_query, by_key = jax.tree.map(lambda table: jnp.asarray(table)[chunks[0]], tables)
    kernel = make_kernel(by_query, by_key, None, blocks, is_interpreted())
    return apply(kernel, q, k, v, SegmentIds(segments, key_segments), scale)


def _dividing(blocks: Blocks, length: int) -> Blocks:
    """The largest blocks up to these that divide a chunk.

    Raises:
      UserError: if none does.
    """
    if length % LANES:
        raise UserError(
            f"splash attention cannot divide chunks of {length} tokens into blocks of {LANES}: "
            f"make the sequence length a multiple of {2 * LANES} x mesh.context"
        )
    queries, keys = blocks.queries, blocks.keys
    while length % queries:
        queries //= 2
    while length % keys:
        keys //= 2
    return Blocks(queries, keys)


@lru_cache(maxsize=16)
def _band_kernel(queries: int, keys: int, window: int, blocks: Blocks, interpret: bool) -> SplashAttentionKernel:
    starts = np.arange(keys - queries, keys, blocks.queries)
    by_query, by_key = (table(starts, keys, blocks.queries, blocks.keys, window) for table in (query_table, key_table))
    for table in (by_query, by_key):
        check_table(table, keys)
    return make_kernel(by_query, by_key, window, blocks, interpret)


@lru_cache(maxsize=16)
def _chunk_tables(size: int, length: int, blocks: Blocks) -> tuple[MaskInfo, MaskInfo]:
    """The tables of all devices, stacked: device i has the chunks i and last - i."""
    count = length // size
    ours = np.arange(0, size, blocks.queries)
    widths = length // blocks.keys, 2 * len(ours)
    made = []
    for low in range(count // 2):
        starts = np.concatenate([low * size + ours, (count - 1 - low) * size + ours])
        made.append(
            tuple(
                table(starts, length, blocks.queries, blocks.keys, None, width)
                for table, width in zip((query_table, key_table), widths, strict=True)
            )
        )
    for table in made[-1]:
        check_table(table, length)
    return jax.tree.map(lambda *tables: np.stack(tables), *made)
