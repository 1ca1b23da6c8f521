"""Attention on NVIDIA GPUs by our own kernels: windows and packed documents, each skipped where it sees nothing.

Splash attention for GPUs. The forward pass and both kernels of the backward pass (dq, dkv) visit only tiles
that the window and the documents reach, and mask only those that either cuts. Memory is linear in the sequence:
kept for the backward pass are inputs, output and log-sum-exp, the last two under the name `SAVED`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from rnope_jax.attention import pallas_gpu_kernels as kernels
from rnope_jax.attention.device import is_nvidia, target
from rnope_jax.attention.pallas_gpu_grids import Rows
from rnope_jax.attention.pallas_gpu_kernels import Program
from rnope_jax.attention.pallas_gpu_tiles import WIDTHS, Kernels, Tiles, choose_tiles
from rnope_jax.attention.shards import per_shard
from rnope_jax.attention.spec import SAVED, AttentionSpec, pad_length
from rnope_jax.errors import UserError

#: The tiles of `interpreted`; None: compile for the GPU.
_interpreted: ContextVar[Kernels | None] = ContextVar("interpreted", default=None)

#: The document of padding: behind all others, so that a tile of both reaches only these two.
_NOBODY = jnp.iinfo(jnp.int32).max


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    spec: AttentionSpec,
    *,
    segment_ids: jax.Array | None = None,
) -> jax.Array:
    """Causal self-attention of whole rows; arguments and result as `reference.attend`.

    Each device attends for its rows of the batch and its heads, as the mesh in context splits them. Rows that
    are not whole tiles and heads of other widths than `WIDTHS` are padded.

    Raises:
      UserError: off NVIDIA GPUs; for heads that are too wide; if batch or heads cannot be split over the mesh.
    """
    check_platform(*target())
    return per_shard(partial(_attend_here, spec=spec), q, k, v, segment_ids, name="pallas_gpu")


def check_platform(platform: str, kind: str) -> None:
    """Checks that the kernels can run there.

    Raises:
      UserError: if they cannot.
    """
    if not is_nvidia(platform, kind) and _interpreted.get() is None:
        raise UserError(
            f'model.attention = "pallas_gpu" needs an NVIDIA GPU, Ampere or newer, and this program is for '
            f'{platform} ({kind}); use "auto", which takes what the device has'
        )


def check_width(dim: int) -> int:
    """The width of heads for which there are kernels.

    Raises:
      UserError: if a head is wider than all.
    """
    for width in WIDTHS:
        if dim <= width:
            return width
    raise UserError(
        f'model.head_dim = {dim}: model.attention = "pallas_gpu" takes heads of up to {WIDTHS[-1]} channels; '
        'use narrower heads, or model.attention = "blockwise"'
    )


@contextmanager
def interpreted(queries: int = 64, keys: int = 32) -> Iterator[None]:
    """Inside, the kernels are interpreted on any platform, with these tiles: slow, for tests.

    What was traced before stays as it was: give `jax.jit` new functions.
    """
    tiles = Tiles(queries, keys, warps=4, stages=1)
    token = _interpreted.set(Kernels(tiles, tiles, tiles))
    try:
        yield
    finally:
        _interpreted.reset(token)


def _attend_here(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, *, spec: AttentionSpec
) -> jax.Array:
    """As `attend`, for the rows and heads of one device."""
    length = q.shape[1]
    segments = None if segment_ids is None else (segment_ids, segment_ids)
    return run(q, k, v, jnp.arange(length), segments, spec.scale, spec.window_within(length))


def run(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    index: jax.Array,
    segments: tuple[jax.Array, jax.Array] | None,
    scale: float,
    window: int | None,
    *,
    dividing: int = 0,
) -> jax.Array:
    """Attention of queries that stand at `index` among the keys.

    Args:
      q: queries [B, S, H, D].
      k: keys [B, T, K, D].
      v: values [B, T, K, D].
      index: rising, and by one within runs of `dividing` queries [S]; the last run goes on where it is padded.
      segments: document of each query [B, S] and of each key [B, T], or None.
      scale: factor on the dot products.
      window: keys that a query sees, itself included; None: all up to itself.
      dividing: tiles of queries must divide this; 0: any will do.

    Raises:
      UserError: for heads that are too wide.
    """
    length, dim = q.shape[1], q.shape[3]
    tiles = _interpreted.get() or choose_tiles(target()[1], dim, q.dtype.itemsize)
    if dividing:
        tiles = tiles.dividing(dividing)
    program = Program(scale, window, tiles, interpret=_interpreted.get() is not None)
    # Padding stands behind all that is real, where causality hides it.
    more_queries = -length % tiles.queries
    index = jnp.concatenate([index, index[-1] + 1 + jnp.arange(more_queries)]) if more_queries else index
    needed = max(k.shape[1], k.shape[1] + more_queries)
    more_keys = needed + -needed % tiles.keys - k.shape[1]
    width = check_width(dim)
    q, k, v = (
        jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, width - dim))) if more or width > dim else x
        for x, more in ((q, more_queries), (k, more_keys), (v, more_keys))
    )
    own, seen = (None, None) if segments is None else segments
    if own is not None and seen is not None:
        own, seen = pad_length(own, 0, more_queries, _NOBODY), pad_length(seen, 0, more_keys, _NOBODY)
    return _attention(program, Rows(q, k, v, index, own, seen))[:, :length, :, :dim]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(program: Program, rows: Rows) -> jax.Array:
    return kernels.forward(program, rows)[0]


def _attention_forward(program: Program, rows: Rows) -> tuple[jax.Array, tuple[Rows, jax.Array, jax.Array]]:
    out, log_sums = (checkpoint_name(x, SAVED) for x in kernels.forward(program, rows))
    return out, (rows, out, log_sums)


def _attention_backward(
    program: Program, residuals: tuple[Rows, jax.Array, jax.Array], gradient: jax.Array
) -> tuple[Any]:
    rows, out, log_sums = residuals
    gradients = kernels.backward(program, rows, out, log_sums, gradient)
    nothing: Any = None  # the gradient of whole numbers
    return (Rows(*gradients, nothing, nothing, nothing),)


_attention.defvjp(_attention_forward, _attention_backward)
