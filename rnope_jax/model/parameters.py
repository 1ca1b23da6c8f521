"""How a parameter is declared: shape, initial values, logical axes and role, in one place.

The declaration travels as metadata of the `nnx.Param`. Shardings, decay masks, the grouping of
Muon and learning-rate factors are all read from there (see `functional.ParameterInfo`).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

#: Logical axis in front of parameters that are stacked for the scan over periods.
STACK_AXIS = "layers"


def matrix(
    rngs: nnx.Rngs,
    shape: Sequence[int],
    axes: Sequence[str | None],
    *,
    inputs: int,
    std: float,
    stack: int | None,
    learning_rate_scale: float = 1.0,
) -> nnx.Param:
    """A weight that maps its first `inputs` axes to the others, normally distributed.

    Args:
      rngs: source of the initial values.
      shape: without the stack.
      axes: logical axis of each dimension.
      inputs: how many leading axes are summed over in the product.
      std: standard deviation of the initial values.
      stack: number of layers held in a leading axis, or None for a single layer.
      learning_rate_scale: factor on the learning rate (muP).
    """
    shape, axes, lead = _stacked(shape, axes, stack)
    return nnx.Param(
        std * jax.random.normal(rngs.params(), shape, jnp.float32),
        out_sharding=axes,
        eager_sharding=False,
        decay=True,
        input_axes=tuple(range(lead, lead + inputs)),
        output_axes=tuple(range(lead + inputs, len(shape))),
        learning_rate_scale=learning_rate_scale,
    )


def embedding(rngs: nnx.Rngs, shape: Sequence[int], axes: Sequence[str | None], *, std: float) -> nnx.Param:
    """A table of vectors, normally distributed; does not decay."""
    value = std * jax.random.normal(rngs.params(), tuple(shape), jnp.float32)
    return _plain(value, tuple(axes))


def gain(shape: Sequence[int], axes: Sequence[str | None], *, stack: int | None) -> nnx.Param:
    """The factors of a norm, ones at first; they do not decay."""
    shape, axes, _ = _stacked(shape, axes, stack)
    return _plain(jnp.ones(shape, jnp.float32), axes)


def _plain(value: jax.Array, axes: tuple[str | None, ...]) -> nnx.Param:
    return nnx.Param(
        value,
        out_sharding=axes,
        eager_sharding=False,
        decay=False,
        input_axes=(),
        output_axes=(),
        learning_rate_scale=1.0,
    )


def _stacked(
    shape: Sequence[int], axes: Sequence[str | None], stack: int | None
) -> tuple[tuple[int, ...], tuple[str | None, ...], int]:
    if stack is None:
        return tuple(shape), tuple(axes), 0
    return (stack, *shape), (STACK_AXIS, *axes), 1
