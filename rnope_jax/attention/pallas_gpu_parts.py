"""The GPU kernels for a part of a row, when devices share it (`context`); as the functions of `blockwise`."""

import jax
import jax.numpy as jnp

from rnope_jax.attention.device import target
from rnope_jax.attention.pallas_gpu import check_platform, run
from rnope_jax.attention.pallas_gpu_tiles import SMALLEST
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
    check_platform(*target())
    index = jnp.arange(q.shape[1]) + reach(window)
    return run(q, k, v, index, (segments, key_segments), scale, window)


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
    """Full causal attention of two chunks of a row to the whole row; see `blockwise.attend_chunks`.

    Raises:
      UserError: if no tile divides a chunk.
    """
    check_platform(*target())
    if size % SMALLEST:
        raise UserError(
            f"pallas_gpu attention cannot divide chunks of {size} tokens into tiles of {SMALLEST}: "
            f"make the sequence length a multiple of {2 * SMALLEST} x mesh.context"
        )
    index = (chunks[:, None] * size + jnp.arange(size)).reshape(-1)
    return run(q, k, v, index, (segments, key_segments), scale, None, dividing=size)
