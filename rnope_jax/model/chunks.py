"""Working along a sequence a chunk at a time, so that what is large exists for one chunk only."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rnope_jax.sharding import RULES, Axes, context_parts, partition


def split(x: jax.Array, chunk: int) -> jax.Array:
    """[B, S, ...] as [count, B, chunk, ...], padded at the end with zeros."""
    padding = -x.shape[1] % chunk
    x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)


def join(chunks: jax.Array, length: int) -> jax.Array:
    """The inverse of `split`: [B, length, ...]."""
    x = jnp.moveaxis(chunks, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def by_chunks(
    function: Callable[..., jax.Array],
    x: jax.Array,
    weights: tuple[jax.Array, ...],
    axes: tuple[Axes, ...],
    chunk: int | None,
) -> jax.Array:
    """`function(x, *weights)` for positions that do not concern each other, `chunk` of them at a time.

    The backward pass computes each chunk again when its turn comes: inside, nothing of the whole sequence is ever
    kept. On a mesh every device works on its own part of the batch and of the sequence, and weights are gathered,
    and their gradients summed, once and not for every chunk.

    Args:
      function: maps [b, s, d] and the weights, in float32, to [b, s, d].
      x: [B, S, d].
      weights: what the function needs besides.
      axes: logical axes of each weight.
      chunk: positions per row, of the part that a device holds; None takes all at once.
    """
    if chunk is None or x.shape[1] // context_parts() <= chunk:
        return function(x, *weights)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _scan(function, x, weights, chunk)

    def local(x: jax.Array, *weights: jax.Array) -> jax.Array:
        split = zip(weights, axes, strict=True)
        whole = [_gather(weight, tuple(names).index("embed"), x.dtype) for weight, names in split]
        return _scan(function, x, tuple(whole), chunk)

    rows = PartitionSpec(*partition(("batch", "sequence")), None)
    # `tensor`, which splits the inner width, is left to XLA.
    parts = tuple(partition([name if name == "embed" else None for name in names]) for names in axes)
    over = {*RULES["batch"], *RULES["sequence"]}
    return jax.shard_map(local, in_specs=(rows, *parts), out_specs=rows, axis_names=over, check_vma=False)(x, *weights)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(weight: jax.Array, axis: int, sent_as: jnp.dtype) -> jax.Array:
    """A whole weight in its own type, in which gradients are added up, sent between devices in another."""
    whole = jax.lax.all_gather(weight.astype(sent_as), RULES["embed"], axis=axis, tiled=True)
    return whole.astype(weight.dtype)


def _gather_forward(weight: jax.Array, axis: int, sent_as: jnp.dtype) -> tuple[jax.Array, None]:
    return _gather(weight, axis, sent_as), None


def _gather_backward(axis: int, sent_as: jnp.dtype, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.psum_scatter(gradient, RULES["embed"], scatter_dimension=axis, tiled=True),)


_gather.defvjp(_gather_forward, _gather_backward)


def _scan(function: Callable[..., jax.Array], x: jax.Array, weights: tuple[jax.Array, ...], chunk: int) -> jax.Array:
    # In a scan nothing can be merged across iterations, so the barrier against it is not needed.
    again = partial(jax.checkpoint, prevent_cse=False)(function)
    _, mapped = jax.lax.scan(lambda carry, part: (carry, again(part, *weights)), None, split(x, chunk))
    return join(mapped, x.shape[1])
