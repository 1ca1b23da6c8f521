"""Work along a sequence, a chunk at a time, is the same work."""

import jax
import jax.numpy as jnp
import pytest

from rnope_jax.config import MeshConfig
from rnope_jax.model.chunks import by_chunks, join, split
from rnope_jax.sharding import make_mesh
from tests.helpers import assert_close

AXES = (("embed", "mlp"),)


def scaled(x, weight):
    return x * weight.astype(x.dtype).sum()


@pytest.mark.parametrize("chunk", [1, 4, 7, 10, 30])
def test_chunks_are_joined_again(chunk):
    x = jnp.arange(2.0 * 10 * 3).reshape(2, 10, 3)
    parts = split(x, chunk)
    assert parts.shape == (-(-10 // chunk), 2, chunk, 3)
    assert_close(join(parts, 10), x, 0)


@pytest.mark.parametrize(
    "mesh", [MeshConfig(fsdp=1), MeshConfig(data=2, fsdp=2, context=2)], ids=["one device", "mesh"]
)
def test_gradients_of_chunks_are_summed_in_float32(mesh):
    # bfloat16 cannot count further than 256.
    x, weight = jnp.ones((4, 1000, 1), jnp.bfloat16), jnp.ones((4, 1), jnp.float32) / 4

    def total(weight):
        return by_chunks(scaled, x, (weight,), AXES, 1).astype(jnp.float32).sum()

    with jax.set_mesh(make_mesh(mesh, jax.devices()[: 1 if mesh.fsdp == 1 else 8])):
        gradient = jax.jit(jax.grad(total))(weight)
    assert_close(gradient, jnp.full((4, 1), 4000.0), 0)
