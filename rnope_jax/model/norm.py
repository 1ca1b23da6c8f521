"""The LayerNorm of the Cohere models."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from rnope_jax.model.parameters import gain


class LayerNorm(nnx.Module):
    """Subtracts the mean, divides by the standard deviation and multiplies by a weight; no bias.

    `CohereLayerNorm` of Hugging Face: computed in float32, weight included, then cast back. The
    weight may span several axes (one vector per head); statistics are taken over the last.
    """

    def __init__(self, shape: Sequence[int], axes: Sequence[str | None], eps: float, *, stack: int | None = None):
        self.eps = eps
        self.scale = gain(shape, axes, stack=stack)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises the last axis of `x`."""
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + self.eps)
        return (y * self.scale[...]).astype(x.dtype)
