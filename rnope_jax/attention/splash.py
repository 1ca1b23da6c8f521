"""Attention on TPU: the splash kernels of jax, whose time and memory suit the mask.

Window layers visit the blocks of the band only, full layers the lower triangle. The backward pass
runs the separate dq and dkv kernels, whose memory grows linearly with the sequence. Output and
log-sum-exp carry the name `SAVED`: with only the output kept, the backward pass would run the
forward kernel again for the other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel import (
    DEFAULT_MASK_VALUE,
    SplashAttentionKernel,
)
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

from rnope_jax.attention.device import target
from rnope_jax.attention.shards import per_shard
from rnope_jax.attention.spec import SAVED, AttentionSpec, pad_length
from rnope_jax.attention.splash_blocks import Blocks, check_table, choose_blocks, fit
from rnope_jax.attention.splash_masks import key_table, mask_function, query_table
from rnope_jax.errors import UserError

#: The blocks of `interpreted`; None: compile for the TPU.
_interpreted: ContextVar[Blocks | None] = ContextVar("interpreted", default=None)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    spec: AttentionSpec,
    *,
    segment_ids: jax.Array | None = None,
) -> jax.Array:
    """Causal self-attention of whole rows; arguments and result as `reference.attend`.

    Each device attends for its rows of the batch and its heads, as the mesh in context splits them.
    Rows of a length that is not a multiple of the blocks are padded.

    Raises:
      UserError: off TPU; if batch or heads cannot be split over the mesh; if a full layer is too long.
    """
    check_platform(target()[0])
    return per_shard(partial(_attend_here, spec=spec), q, k, v, segment_ids, name="splash")


def check_platform(platform: str) -> None:
    """Checks that the kernels can run there.

    Raises:
      UserError: if they cannot.
    """
    if platform != "tpu" and _interpreted.get() is None:
        raise UserError(
            f'model.attention = "splash" needs a TPU, and this program is for {platform}; '
            'use "auto", which takes splash on TPU and blockwise elsewhere'
        )


@contextmanager
def interpreted(queries: int = 128, keys: int = 128) -> Iterator[None]:
    """Inside, the kernels are interpreted on any platform, with these blocks: slow, for tests.

    What was traced before stays as it was: give `jax.jit` new functions.
    """
    token = _interpreted.set(Blocks(queries, keys))
    try:
        yield
    finally:
        _interpreted.reset(token)


def _attend_here(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, *, spec: AttentionSpec
) -> jax.Array:
    """As `attend`, for the rows and heads of one device."""
    length = q.shape[1]
    window = spec.window_within(length)
    interpret = _interpreted.get()
    blocks, padding = fit(blocks_for(q, window), length)
    kernel = _kernel(length + padding, window, blocks, interpret is not None)
    # Padding sits at the end, where causality hides it from every real query.
    q, k, v = (pad_length(x, 0, padding) for x in (q, k, v))
    segments = None
    if segment_ids is not None:
        ids = pad_length(segment_ids, 0, padding, -1)
        segments = SegmentIds(ids, ids)
    return apply(kernel, q, k, v, segments, spec.scale)[:, :length]


def blocks_for(q: jax.Array, window: int | None) -> Blocks:
    """The blocks for these queries on the device in question."""
    return _interpreted.get() or choose_blocks(target()[1], window, q.shape[3], q.dtype.itemsize)


def is_interpreted() -> bool:
    """Whether kernels are interpreted here."""
    return _interpreted.get() is not None


def apply(
    kernel: SplashAttentionKernel, q: jax.Array, k: jax.Array, v: jax.Array, segments: SegmentIds | None, scale: float
) -> jax.Array:
    """Runs a kernel on arrays [B, S, heads, D]."""
    # The kernel has no scale. In float32, because the scale itself is no number of bfloat16.
    q = (q.astype(jnp.float32) * scale).astype(q.dtype)
    out = jax.vmap(kernel)(*(x.swapaxes(1, 2) for x in (q, k, v)), segments)
    assert isinstance(out, jax.Array)  # without residuals, as it was asked
    return out.swapaxes(1, 2)


@lru_cache(maxsize=16)
def _kernel(length: int, window: int | None, blocks: Blocks, interpret: bool) -> SplashAttentionKernel:
    """Attention [H, S, D], [K, S, D], [K, S, D], segments -> [H, S, D]."""
    starts = np.arange(0, length, blocks.queries)
    by_query = query_table(starts, length, blocks.queries, blocks.keys, window)
    by_key = key_table(starts, length, blocks.queries, blocks.keys, window)
    for table in (by_query, by_key):
        check_table(table, length)
    return make_kernel(by_query, by_key, window, blocks, interpret)


def make_kernel(
    by_query: MaskInfo, by_key: MaskInfo, window: int | None, blocks: Blocks, interpret: bool
) -> SplashAttentionKernel:
    """Attention [H, Q, D], [K, S, D], [K, S, D], segments -> [H, Q, D] over the blocks that the tables list."""
    return SplashAttentionKernel(
        by_query,
        by_query,
        by_key,
        block_sizes=blocks.sizes(),
        is_mqa=False,
        save_residuals=False,
        mask_value=DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=SAVED,
        mask_function=mask_function(window),
        interpret=interpret,
    )
