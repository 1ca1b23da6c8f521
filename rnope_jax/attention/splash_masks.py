"""Which blocks of the mask splash attention visits, written down without looking at the mask.

The kernels of `jax.experimental.pallas.ops.tpu.splash_attention` read a table from scalar memory:
for each step of the grid the block to load, and whether to skip it (0), mask it (1) or know it to be
visible throughout (2). The library finds these by evaluating the mask block by block, which takes
minutes of host time at 128k tokens and hours at a million. The blocks of a causal band are an
interval in each row, so that arithmetic on their edges gives the same tables in milliseconds.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import jax
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

from rnope_jax.attention.spec import visible
from rnope_jax.layers import reach


@lru_cache
def mask_function(window: int | None) -> Callable[..., jax.Array]:
    """The mask that the kernel computes for itself inside a block; one object per window, so that traces are shared."""
    return partial(visible, window=window)


def query_table(
    starts: np.ndarray, length: int, block_q: int, block_k: int, window: int | None, width: int | None = None
) -> MaskInfo:
    """For each block of queries the blocks of keys that it sees: the table of the forward and dq kernels.

    Args:
      starts: index among the keys of the first query of each block, rising.
      length: number of keys, a multiple of `block_k`.
      block_q: queries per block.
      block_k: keys per block.
      window: keys that a query sees, itself included; None: the whole prefix.
      width: steps per row of the grid; None: as many as the longest row needs.
    """
    queries = np.arange(len(starts))[:, None]
    first = np.zeros_like(queries) if window is None else np.maximum(0, starts[:, None] - reach(window)) // block_k
    last = np.minimum(starts[:, None] + block_q - 1, length - 1) // block_k
    keys = first + np.arange(width or np.max(last - first) + 1)
    # Rows are as wide as the longest. What is left of a short one already points to the block with
    # which the next row begins, so that nothing is loaded in vain.
    keys = np.where(keys <= last, keys, -1)
    return _table(queries, keys, np.roll(first, -1, axis=0), keys, starts, block_q, block_k, window)


def key_table(
    starts: np.ndarray, length: int, block_q: int, block_k: int, window: int | None, width: int | None = None
) -> MaskInfo:
    """For each block of keys the blocks of queries that see it: the table of the dkv kernel; arguments as above."""
    keys = np.arange(length // block_k)[None, :]
    # The first block whose last query is not before the block of keys, the last one that reaches back to it.
    first = np.searchsorted(starts + block_q - 1, keys * block_k)
    last = np.full_like(keys, len(starts) - 1)
    if window is not None:
        last = np.searchsorted(starts, (keys + 1) * block_k + reach(window) - 1, side="right") - 1
    # Columns end together: what is missing of a short one stands before its first block.
    queries = last - np.arange(width or max(np.max(last - first) + 1, 1))[::-1, None]
    queries = np.where(queries >= first, queries, -1)
    return _table(queries, keys, np.minimum(first, len(starts) - 1), queries, starts, block_q, block_k, window)


def _table(
    queries: np.ndarray,
    keys: np.ndarray,
    otherwise: np.ndarray,
    visited: np.ndarray,
    starts: np.ndarray,
    block_q: int,
    block_k: int,
    window: int | None,
) -> MaskInfo:
    """The table for steps at these blocks; where `visited` is -1 the step is skipped and `otherwise` is loaded."""
    whole = (keys + 1) * block_k - 1 <= starts[queries]
    if window is not None:
        whole &= keys * block_k >= starts[queries] + block_q - 1 - reach(window)
    states = np.where(visited < 0, 0, np.where(whole, 2, 1))
    return MaskInfo(
        data_next=_small(np.where(visited < 0, otherwise, visited)[None]),
        mask_next=None,
        block_mask=_small(states[None]),
        partial_mask_blocks=None,
        q_sequence=(starts[:, None] + np.arange(block_q)).reshape(-1).astype(np.int32),
    )


def _small(values: np.ndarray) -> np.ndarray:
    """The same numbers in the smallest type that holds them: scalar memory is scarce."""
    return values.astype(np.min_scalar_type(-int(values.max()) - 1))
