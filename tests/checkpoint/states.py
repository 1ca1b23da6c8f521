"""Small states and what they must come back as."""

import jax
import jax.numpy as jnp
import numpy as np

ABOUT = {"note": "any"}


def state(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    params = {"a.b": rng.normal(size=(8, 4)), "periods.0.x": rng.normal(size=16)}
    params = {name: jnp.asarray(x, jnp.float32) for name, x in params.items()}
    return {"params": params, "optimizer": {"adam": {"count": jnp.int32(seed), "mu": params}}, "step": jnp.int32(seed)}


def abstract(value: dict) -> dict:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), value)


def assert_same(actual: dict, expected: dict) -> None:
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    assert jax.tree.map(lambda x: x.dtype, actual) == jax.tree.map(lambda x: x.dtype, expected)
