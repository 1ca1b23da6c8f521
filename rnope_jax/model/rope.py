"""Rotary position embedding in the interleaved (GPT-J) layout of the Cohere models."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Rotation(NamedTuple):
    """Cosines and sines [B, S, D / 2] of one theta, in float32."""

    cos: jax.Array
    sin: jax.Array


def rotation(positions: jax.Array, theta: float, head_dim: int) -> Rotation:
    """The rotation of tokens at `positions` [B, S]: angle of pair i is position x theta^(-2i / D)."""
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions.astype(jnp.float32)[..., None] * frequencies
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: jax.Array, by: Rotation) -> jax.Array:
    """Rotates channel pairs (0, 1), (2, 3), ... of heads [B, S, H, D]; float32 inside, cast back."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = by.cos[:, :, None], by.sin[:, :, None]
    rotated = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)
