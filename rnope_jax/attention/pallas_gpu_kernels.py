"""The GPU kernels of attention: forward, dq, dkv. FlashAttention-2's recurrences over the tiles that are visited.

Written in Pallas and compiled by Triton. A program of a kernel owns a tile of queries of a head (forward, dq)
or a tile of keys of a key head (dkv), and goes through what `pallas_gpu_visits` lists for it. Products take the type
of the inputs and add up in float32. Logits are kept in powers of two, because `exp2` is what the hardware has.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from rnope_jax.attention.pallas_gpu_grids import Input, KeyTiles, QueryTiles, Rows
from rnope_jax.attention.pallas_gpu_tiles import Kernels, Tiles
from rnope_jax.attention.spec import MASKED, visible

#: A reference to memory inside a kernel; None where an input is left out.
Ref = Any

_LOG2_E = math.log2(math.e)


class Program(NamedTuple):
    """What is compiled, besides shapes."""

    scale: float
    window: int | None
    """Keys that a query sees, itself included; None: the whole prefix."""
    tiles: Kernels
    interpret: bool


def forward(program: Program, rows: Rows) -> tuple[jax.Array, jax.Array]:
    """The output [B, S, H, D], and for each query the logarithm to base 2 of its sum of exponentials [B, H, S]."""
    q, tiles = rows.q, program.tiles.forward
    shared = QueryTiles(rows, tiles, program.window)
    return _run(
        partial(_forward_kernel, program=program),
        program,
        tiles,
        grid=shared.grid,
        inputs=shared.inputs,
        outputs=[
            (jax.ShapeDtypeStruct(q.shape, q.dtype), shared.vectors),
            (jax.ShapeDtypeStruct((q.shape[0], q.shape[2], q.shape[1]), jnp.float32), shared.numbers),
        ],
    )


def backward(
    program: Program, rows: Rows, out: jax.Array, log_sums: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of q, k and v, given `forward`'s results and the gradient of the output [B, S, H, D]."""
    # What the softmax takes off each query's gradients: sum over channels of output times its gradient.
    mean = (gradient.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1).swapaxes(1, 2)
    like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in rows[:3]]
    by_queries = QueryTiles(rows, program.tiles.dq, program.window)
    (dq,) = _run(
        partial(_dq_kernel, program=program),
        program,
        program.tiles.dq,
        grid=by_queries.grid,
        inputs=[
            *by_queries.inputs,
            (gradient, by_queries.vectors),
            (log_sums, by_queries.numbers),
            (mean, by_queries.numbers),
        ],
        outputs=[(like[0], by_queries.vectors)],
    )
    by_keys = KeyTiles(rows, program.tiles.dkv, program.window)
    dk, dv = _run(
        partial(_dkv_kernel, program=program),
        program,
        program.tiles.dkv,
        grid=by_keys.grid,
        inputs=[*by_keys.inputs, (gradient, by_keys.heads), (log_sums, by_keys.numbers), (mean, by_keys.numbers)],
        outputs=[(like[1], by_keys.vectors), (like[2], by_keys.vectors)],
    )
    return dq, dk, dv


def _run(
    kernel: Callable[..., None],
    program: Program,
    tiles: Tiles,
    *,
    grid: tuple[int, ...],
    inputs: Sequence[Input],
    outputs: Sequence[tuple[jax.ShapeDtypeStruct, pl.BlockSpec]],
) -> Any:
    arrays, in_specs = zip(*inputs, strict=True)
    shapes, out_specs = zip(*outputs, strict=True)
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=shapes,
        interpret=program.interpret,
        compiler_params=triton.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
    )(*arrays)


# --- What a program does ---


def _visit(visits: Ref, body: Callable[..., Any], carry: Any) -> Any:
    """Runs `body(tile, carry, masked=...)` over the tiles that are listed."""
    for part, masked in enumerate((True, False, True)):
        carry = jax.lax.fori_loop(visits[part], visits[part + 1], partial(body, masked=masked), carry)
    return carry


def _dot(a: jax.Array, b: jax.Array, *, trans_b: bool = False) -> jax.Array:
    """A product that adds up in float32. That of float32 numbers is not rounded to TF32."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return triton.dot(a, b, trans_b=trans_b, precision=exact)


def _column(x: jax.Array) -> jax.Array:
    return jnp.expand_dims(x, 1)


def _row(x: jax.Array) -> jax.Array:
    return jnp.expand_dims(x, 0)


def _forward_kernel(
    visits: Ref,
    start: Ref,
    segments: Ref,
    key_segments: Ref,
    q_ref: Ref,
    k_ref: Ref,
    v_ref: Ref,
    out_ref: Ref,
    log_sums_ref: Ref,
    *,
    program: Program,
) -> None:
    tiles = program.tiles.forward
    mask_of = _query_mask(tiles, program.window, start, segments, key_segments)
    q = q_ref[...]

    def body(j: jax.Array, carry: Any, *, masked: bool) -> Any:
        out, maxima, sums = carry
        at = pl.ds(j * tiles.keys, tiles.keys)
        logits = _dot(q, k_ref[at, :], trans_b=True) * (program.scale * _LOG2_E)
        if masked:
            logits = jnp.where(mask_of(j), logits, MASKED)
        # Where a query sees nothing of its first tiles, weights are wrong until it sees itself: then `decay` is 0.
        maximum = jnp.maximum(maxima, logits.max(1))
        decay = jnp.exp2(maxima - maximum)
        weights = jnp.exp2(logits - _column(maximum))
        values = v_ref[at, :]
        out = out * _column(decay) + _dot(weights.astype(values.dtype), values)
        return out, maximum, sums * decay + weights.sum(1)

    numbers = jnp.zeros(tiles.queries, jnp.float32)
    out, maxima, sums = _visit(visits, body, (jnp.zeros(q.shape, jnp.float32), numbers + MASKED, numbers))
    out_ref[...] = (out / _column(sums)).astype(out_ref.dtype)
    log_sums_ref[...] = maxima + jnp.log2(sums)


def _dq_kernel(
    visits: Ref,
    start: Ref,
    segments: Ref,
    key_segments: Ref,
    q_ref: Ref,
    k_ref: Ref,
    v_ref: Ref,
    gradient_ref: Ref,
    log_sums_ref: Ref,
    mean_ref: Ref,
    dq_ref: Ref,
    *,
    program: Program,
) -> None:
    tiles = program.tiles.dq
    mask_of = _query_mask(tiles, program.window, start, segments, key_segments)
    q, gradient = q_ref[...], gradient_ref[...]
    log_sums, mean = _column(log_sums_ref[...]), _column(mean_ref[...])

    def body(j: jax.Array, dq: jax.Array, *, masked: bool) -> jax.Array:
        at = pl.ds(j * tiles.keys, tiles.keys)
        keys = k_ref[at, :]
        logits = _dot(q, keys, trans_b=True) * (program.scale * _LOG2_E)
        if masked:
            logits = jnp.where(mask_of(j), logits, MASKED)
        weights = jnp.exp2(logits - log_sums)
        dlogits = weights * (_dot(gradient, v_ref[at, :], trans_b=True) - mean)
        return dq + _dot(dlogits.astype(keys.dtype), keys)

    dq = _visit(visits, body, jnp.zeros(q.shape, jnp.float32))
    dq_ref[...] = (dq * program.scale).astype(dq_ref.dtype)


def _query_mask(
    tiles: Tiles, window: int | None, start: Ref, segments: Ref, key_segments: Ref
) -> Callable[[jax.Array], jax.Array]:
    """Which pairs of the program's queries and of a tile of keys are visible [queries, keys]."""
    query = _column(start[0] + jnp.arange(tiles.queries))
    own = None if segments is None else _column(segments[...])

    def mask(j: jax.Array) -> jax.Array:
        first = j * tiles.keys
        seen = visible(query, _row(first + jnp.arange(tiles.keys)), window)
        return seen if own is None else seen & (own == _row(key_segments[pl.ds(first, tiles.keys)]))

    return mask


def _dkv_kernel(
    visits: Ref,
    starts: Ref,
    segments: Ref,
    key_segments: Ref,
    q_ref: Ref,
    k_ref: Ref,
    v_ref: Ref,
    gradient_ref: Ref,
    log_sums_ref: Ref,
    mean_ref: Ref,
    dk_ref: Ref,
    dv_ref: Ref,
    *,
    program: Program,
) -> None:
    tiles = program.tiles.dkv
    keys, values = k_ref[...], v_ref[...]
    key = _column(pl.program_id(1) * tiles.keys + jnp.arange(tiles.keys))
    own = None if segments is None else _column(key_segments[...])

    def body(i: jax.Array, carry: Any, *, masked: bool, head: jax.Array) -> Any:
        """One tile of queries; logits are [keys, queries] here, so that no product needs a transposed result."""
        dk, dv = carry
        at = pl.ds(i * tiles.queries, tiles.queries)
        queries, gradient = q_ref[at, head, :], gradient_ref[at, head, :]
        logits = _dot(keys, queries, trans_b=True) * (program.scale * _LOG2_E)
        if masked:
            seen = visible(_row(starts[i] + jnp.arange(tiles.queries)), key, program.window)
            if own is not None:
                seen &= own == _row(segments[at])
            logits = jnp.where(seen, logits, MASKED)
        weights = jnp.exp2(logits - _row(log_sums_ref[head, at]))
        dv += _dot(weights.astype(gradient.dtype), gradient)
        dlogits = weights * (_dot(values, gradient, trans_b=True) - _row(mean_ref[head, at]))
        return dk + _dot(dlogits.astype(queries.dtype), queries), dv

    def visit(head: jax.Array, carry: Any) -> Any:
        return _visit(visits, partial(body, head=head), carry)

    zeros = jnp.zeros(keys.shape, jnp.float32)
    dk, dv = jax.lax.fori_loop(0, q_ref.shape[1], visit, (zeros, zeros))
    dk_ref[...] = (dk * program.scale).astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)
