"""Products of activations with weights."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from rnope_jax.attention.device import target

#: Fewer rows XLA for CPUs multiplies fastest with a matrix as it lies: one row with a transposed one in a twentieth of
#: the time that it takes to copy it.
_FEW = 8


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
    if not _one_device():
        # Batch and sequence may be split over devices, each in its way, so they stay apart.
        return jnp.tensordot(x, weight.astype(x.dtype), axes=inputs, preferred_element_type=result_type)
    # One row per token: the gradient of the weight then sums over a single axis. Over two, XLA's CPU
    # backend first writes a transposed copy of each operand, which takes longer than the product.
    width = math.prod(weight.shape[:inputs])
    rows, matrix = x.reshape(-1, width), weight.reshape(width, -1)
    if x.dtype == jnp.bfloat16 and len(rows) >= _FEW and target()[0] == "cpu":
        product = _product(rows, matrix, jnp.dtype(result_type or x.dtype))
    else:
        product = jnp.matmul(rows, matrix.astype(x.dtype), preferred_element_type=result_type)
    return product.reshape(*x.shape[:-inputs], *weight.shape[inputs:])


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """The product of two matrices of one type, summed in float32, which is the type of the result.

    XLA for CPUs has the processor multiply bfloat16 only where the result is float32 and both operands lie in memory
    row by row. Transposed ones are therefore copied: that costs less than the half of the speed that is lost otherwise.
    """
    if a.dtype == jnp.bfloat16 and target()[0] == "cpu" and _one_device():
        a, b = (with_layout_constraint(x, Layout(major_to_minor=(0, 1))) for x in (a, b))
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(rows: jax.Array, matrix: jax.Array, result_type: jnp.dtype) -> jax.Array:
    """`rows` times `matrix`, which is cast to their type; the gradients are such products too."""
    return matmul(rows, matrix.astype(rows.dtype)).astype(result_type)


def _forward(
    rows: jax.Array, matrix: jax.Array, result_type: jnp.dtype
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(rows, matrix, result_type), (rows, matrix)


def _backward(_: jnp.dtype, kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows, matrix = kept
    gradient = gradient.astype(rows.dtype)
    d_rows = matmul(gradient, matrix.astype(rows.dtype).T).astype(rows.dtype)
    return d_rows, matmul(rows.T, gradient).astype(matrix.dtype)


_product.defvjp(_forward, _backward)


def _one_device() -> bool:
    """Whether arrays are not split: there is no mesh, or it has one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or mesh.size == 1
