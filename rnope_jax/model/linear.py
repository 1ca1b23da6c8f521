"""Products of activations with weights."""

import math

import jax
import jax.numpy as jnp


def project(
    x: jax.Array, weight: jax.Array, inputs: int = 1, *, result_type: jax.typing.DTypeLike | None = None
) -> jax.Array:
    """Multiplies the last `inputs` axes of `x` with the first ones of `weight`, which is cast to the type of `x`.

    Args:
      x: activations, [B, S, ...] or [B, ...].
      weight: its first axes are summed over.
      inputs: how many.
      result_type: type of the sums and of the result; None takes that of `x`.

    Returns:
      The leading axes of `x`, then the other axes of `weight`.
    """
    weight = weight.astype(x.dtype)
    if not _one_device():
        # Batch and sequence may be split over devices, each in its way, so they stay apart.
        return jnp.tensordot(x, weight, axes=inputs, preferred_element_type=result_type)
    # One row per token: the gradient of the weight then sums over a single axis. Over two, XLA's CPU
    # backend first writes a transposed copy of each operand, which takes longer than the product.
    width = math.prod(weight.shape[:inputs])
    rows = jnp.matmul(x.reshape(-1, width), weight.reshape(width, -1), preferred_element_type=result_type)
    return rows.reshape(*x.shape[:-inputs], *weight.shape[inputs:])


def _one_device() -> bool:
    """Whether arrays are not split: there is no mesh, or it has one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or mesh.size == 1
