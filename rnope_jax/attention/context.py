"""Context parallelism: one sequence over several devices, with little to say to each other.

A row of S tokens is cut into 2n chunks; device i of n holds chunks i and 2n-1-i (zigzag), so that
every device has the same causal work, in window layers and in full layers alike. Nothing moves
between layers.

- A window layer needs, for each chunk, the last `window - 1` keys before it. They lie in the chunk
  before, on a neighbour: two hops in opposite directions, whatever the length of the sequence (more
  hops where a chunk is shorter than the window).
- A full layer gathers keys and values; its queries stay where they are.

Everything else in the model works on single tokens and need not know.
"""

from functools import partial
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnope_jax.attention.spec import AttentionSpec
from rnope_jax.errors import UserError
from rnope_jax.layers import reach
from rnope_jax.sharding import CONTEXT, context_parts, partition

#: Modules that attend from a part of a row, by backend.
_BACKENDS = {"blockwise": "blockwise", "splash": "splash_parts", "pallas_gpu": "pallas_gpu_parts"}


def zigzag(length: int, parts: int) -> np.ndarray:
    """The order [length] in which the tokens of a row lie when `parts` devices split it.

    `x[:, zigzag(...)]` cut into equal parts gives device i the chunks i and 2 x parts - 1 - i.
    """
    chunks = np.arange(length).reshape(2 * parts, -1)
    return np.concatenate([chunks[[i, 2 * parts - 1 - i]].reshape(-1) for i in range(parts)])


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    spec: AttentionSpec,
    *,
    segment_ids: jax.Array | None = None,
    backend: str = "blockwise",
) -> jax.Array:
    """Causal self-attention of rows in zigzag order over the mesh axis `context`.

    Arguments and result as `reference.attend`, each split over the mesh.
    """
    if backend not in _BACKENDS:
        raise UserError(
            f"model.attention = {backend!r} cannot split rows over mesh.context; {', '.join(_BACKENDS)} can, "
            'and "auto" takes one of them'
        )
    module = import_module(f"rnope_jax.attention.{_BACKENDS[backend]}")
    parts = context_parts()
    length = q.shape[1]
    if segment_ids is None:
        segment_ids = jnp.ones(q.shape[:2], jnp.int32)
    heads, kv_heads = (partition(("batch", "sequence", name, None)) for name in ("heads", "kv_heads"))
    rows = partition(("batch", "sequence"))
    if spec.window_within(length) is not None:
        local = partial(_windowed, spec=spec, parts=parts, backend=module)
    else:
        local = partial(_full, spec=spec, parts=parts, backend=module)
    return jax.shard_map(local, in_specs=(heads, kv_heads, kv_heads, rows), out_specs=heads, check_vma=False)(
        q, k, v, segment_ids
    )


def _windowed(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, *, spec: AttentionSpec, parts: int, backend: Any
) -> jax.Array:
    """Attention of this device's two chunks, with the keys before each fetched from its neighbours."""
    assert spec.window is not None
    past = reach(spec.window)
    keys_values = jnp.concatenate([k, v], axis=2)  # one message instead of two
    seen = _with_past(keys_values, past, parts)
    # Zero arrives where there is no neighbour: no document may have that number.
    seen_segments = _with_past(segments + 1, past, parts) - 1
    k, v = jnp.split(seen, 2, axis=2)
    mixed = backend.attend_band(
        _chunks(q), k, v, spec.window, spec.scale, segments=_chunks(segments), key_segments=seen_segments
    )
    return _join(mixed)


def _chunks(x: jax.Array) -> jax.Array:
    """[B, 2C, ...] to [2B, C, ...]: the low chunks of all rows, then the high ones."""
    return jnp.concatenate(jnp.split(x, 2, axis=1), axis=0)


def _join(x: jax.Array) -> jax.Array:
    """The inverse of `_chunks`."""
    return jnp.concatenate(jnp.split(x, 2, axis=0), axis=1)


def _with_past(x: jax.Array, past: int, parts: int) -> jax.Array:
    """[B, 2C, ...] to [2B, past + C, ...]: each chunk behind the `past` tokens before it, zero where there are none."""
    device = jax.lax.axis_index(CONTEXT)
    low, high = jnp.split(x, 2, axis=1)
    chunk = low.shape[1]
    before_low, before_high = [], []
    for hop in range(-(-past // chunk), 0, -1):
        rows = min(chunk, past - (hop - 1) * chunk)
        tail_low, tail_high = low[:, chunk - rows :], high[:, chunk - rows :]
        # Chunk i - hop is the low one of device i - hop.
        before_low.append(_send(tail_low, [(d, d + hop) for d in range(parts - hop)]))
        # Chunk 2n-1-i-hop is the high one of device i + hop or, past the middle, the low one of device 2n-1-i-hop.
        above = _send(tail_high, [(d + hop, d) for d in range(parts - hop)])
        turned = [(2 * parts - 1 - d - hop, d) for d in range(parts) if 0 <= 2 * parts - 1 - d - hop < parts]
        before_high.append(jnp.where(device < parts - hop, above, _send(tail_low, turned)))
    return jnp.concatenate(
        [jnp.concatenate([*before_low, low], axis=1), jnp.concatenate([*before_high, high], axis=1)], axis=0
    )


def _send(x: jax.Array, pairs: list[tuple[int, int]]) -> jax.Array:
    """Sends to other devices of the axis; zero where nothing comes from."""
    if not pairs:
        return jnp.zeros_like(x)
    if all(source == target for source, target in pairs):
        device = jax.lax.axis_index(CONTEXT)
        return jnp.where(jnp.isin(device, jnp.array([target for _, target in pairs])), x, 0)
    return jax.lax.ppermute(x, CONTEXT, pairs)


def _full(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, *, spec: AttentionSpec, parts: int, backend: Any
) -> jax.Array:
    """Attention of this device's two chunks to the whole row."""
    device = jax.lax.axis_index(CONTEXT)
    k, v = jnp.split(_gather(jnp.concatenate([k, v], axis=2), parts), 2, axis=2)
    chunk = q.shape[1] // 2
    own = jnp.stack([device, 2 * parts - 1 - device])
    return backend.attend_chunks(
        q, k, v, spec.scale, own, chunk, segments=segments, key_segments=_gather(segments, parts)
    )


def _gather(x: jax.Array, parts: int) -> jax.Array:
    """[B, 2C, ...] of every device to [B, S, ...] in the order of the row."""
    batch, local = x.shape[:2]
    x = x.reshape(batch, 2, local // 2, *x.shape[2:])
    gathered = _all_gather(x, parts) if jnp.issubdtype(x.dtype, jnp.floating) else jax.lax.all_gather(x, CONTEXT)
    ordered = jnp.concatenate([gathered[:, :, 0], gathered[::-1, :, 1]], axis=0)
    return jnp.moveaxis(ordered, 0, 1).reshape(batch, parts * local, *x.shape[3:])


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _all_gather(x: jax.Array, parts: int) -> jax.Array:
    """The `x` of every device [parts, ...]; its gradient is summed around a ring.

    XLA for TPU makes an all-reduce of the whole gradient of a gather of this kind, twice the traffic,
    and waits for it; hops to neighbours are hidden behind other work.
    """
    return jax.lax.all_gather(x, CONTEXT)


def _all_gather_forward(x: jax.Array, parts: int) -> tuple[jax.Array, None]:
    return _all_gather(x, parts), None


def _all_gather_backward(parts: int, _residuals: None, gradient: jax.Array) -> tuple[jax.Array]:
    """Sums the parts [parts, B, 2, C, heads, D] of all devices, each where it belongs.

    Every partial sum travels over all devices and ends at its own. Half of the heads go one way and
    half the other, so that links are used in both directions.
    """
    halves = jnp.split(gradient, 2, axis=-2)
    return (jnp.concatenate([_ring_sum(half, parts, step) for half, step in zip(halves, (1, -1), strict=True)], -2),)


_all_gather.defvjp(_all_gather_forward, _all_gather_backward)


def _ring_sum(x: jax.Array, parts: int, step: int) -> jax.Array:
    """The sum over devices of the part [parts, ...] that belongs to this one, sent on by `step` at a time."""
    device = jax.lax.axis_index(CONTEXT)
    hop = [(d, (d + step) % parts) for d in range(parts)]
    total = x[(device - step) % parts]
    for number in range(2, parts + 1):
        total = jax.lax.ppermute(total, CONTEXT, hop) + x[(device - number * step) % parts]
    return total
