"""Updates, against optax and linear algebra."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnope_jax.config import OptimizerConfig
from rnope_jax.model import ParameterInfo, describe
from rnope_jax.training.optimizer import Optimizer, clip
from tests.helpers import assert_close, tiny_model

RATE = 0.01


def info(shape: tuple[int, ...], lead: int = 0, inputs: int = 1, scale: float = 1.0) -> ParameterInfo:
    """A matrix, or a stack of them."""
    axes = tuple(range(lead, len(shape)))
    return ParameterInfo(shape, jnp.float32, (None,) * len(shape), True, axes[:inputs], axes[inputs:], scale)


def vector(*shape: int) -> ParameterInfo:
    return ParameterInfo(shape, jnp.float32, (None,) * len(shape), False, (), (), 1.0)


INFOS = {
    "stack": info((3, 8, 2, 3), lead=1),  # 3 matrices of 8 x (2 x 3)
    "output": info((2, 3, 8), inputs=2),  # (2 x 3) x 8
    "wide": info((5, 9), scale=0.25),
    "norm": vector(8),
    "embedding": vector(11, 8),
}


def random(seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=i.shape), jnp.float32) for name, i in INFOS.items()}


def run(config: OptimizerConfig, steps: int = 3, infos: Any = None) -> tuple[dict, dict]:
    """Parameters before the last step and after it."""
    optimizer = Optimizer(config, infos or INFOS)
    params, state = random(0), None
    state = optimizer.init(params)
    for step in range(steps):
        before = params
        params, state = optimizer.update(random(step + 1), state, params, jnp.float32(RATE))
    return before, params


def test_adamw_is_that_of_optax():
    config = OptimizerConfig(name="adamw", beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.3)
    plain = {name: i for name, i in INFOS.items() if name != "wide"}
    optimizer, params = Optimizer(config, plain), {name: random(0)[name] for name in plain}
    decays = {name: i.decay for name, i in plain.items()}
    peer = optax.adamw(RATE, b1=0.8, b2=0.9, eps=1e-6, weight_decay=0.3, mask=decays)
    state, theirs, their_state = optimizer.init(params), params, peer.init(params)
    for seed in range(1, 5):
        gradients = {name: random(seed)[name] for name in plain}
        params, state = optimizer.update(gradients, state, params, jnp.float32(RATE))
        updates, their_state = peer.update(gradients, their_state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    for name in plain:
        assert_close(params[name], theirs[name], 1e-6, name)


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_matrices_decay_and_nothing_else_does(name):
    (_, with_decay), (_, without) = (run(OptimizerConfig(name=name, weight_decay=w), steps=1) for w in (0.5, 0.0))
    for key, i in INFOS.items():
        difference = without[key] - with_decay[key]
        expected = RATE * 0.5 * random(0)[key] if i.decay else 0 * random(0)[key]
        np.testing.assert_allclose(difference, expected, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_the_learning_rate_scale_multiplies_the_update_but_not_the_decay(name):
    config = OptimizerConfig(name=name, weight_decay=0.5)
    before, scaled = run(config, steps=1)
    _, plain = run(config, steps=1, infos={**INFOS, "wide": info((5, 9))})
    kept = before["wide"] * (1 - RATE * 0.5)
    assert_close(scaled["wide"] - kept, 0.25 * (plain["wide"] - kept), 1e-3)


def orthogonal_part(before: jax.Array, after: jax.Array, larger_side: int) -> np.ndarray:
    """Muon's update without rate and scale."""
    return np.asarray((before - after) / (RATE * 0.2 * np.sqrt(larger_side)))


def test_muon_gives_every_matrix_of_a_stack_an_orthogonal_update():
    before, after = run(OptimizerConfig(name="muon", weight_decay=0.0))
    stack = orthogonal_part(before["stack"], after["stack"], 8).reshape(3, 8, 6)
    output = orthogonal_part(before["output"], after["output"], 8).reshape(6, 8)
    wide = orthogonal_part(before["wide"], after["wide"], 9) / 0.25
    for matrix in (*stack, output, wide):
        singular = np.linalg.svd(matrix, compute_uv=False)
        # Five Newton-Schulz steps bring singular values near one, not to it.
        assert ((singular > 0.6) & (singular < 1.3)).all(), singular


def test_muon_treats_the_matrices_of_a_stack_apart():
    """Every matrix gets the update that it would get alone."""
    config = OptimizerConfig(name="muon", weight_decay=0.0)
    _, together = run(config)
    optimizer = Optimizer(config, {"one": info((8, 2, 3))})
    params = {"one": random(0)["stack"][1]}
    state = optimizer.init(params)
    for step in range(3):
        params, state = optimizer.update({"one": random(step + 1)["stack"][1]}, state, params, jnp.float32(RATE))
    assert_close(params["one"], together["stack"][1], 1e-5)


def test_muon_gives_vectors_and_the_embedding_to_adam():
    _, muon = run(OptimizerConfig(name="muon", weight_decay=0.0))
    _, adam = run(OptimizerConfig(name="adamw", weight_decay=0.0))
    for name in ("norm", "embedding"):
        np.testing.assert_array_equal(muon[name], adam[name])
    assert Optimizer(OptimizerConfig(name="muon"), describe(tiny_model())).parts["adam"].names == tuple(
        name for name in describe(tiny_model()) if name == "embedding" or name.endswith(("scale", "weight"))
    )


def test_adafactor_keeps_rows_and_columns_and_reduces_a_loss():
    infos = {"matrix": info((130, 140)), "bias": vector(140)}
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(64, n)) / 10, jnp.float32) for n in (130, 140))
    params = {name: jnp.zeros(i.shape) for name, i in infos.items()}
    optimizer = Optimizer(OptimizerConfig(name="adafactor", weight_decay=0.0), infos)
    state = optimizer.init(params)

    def loss(params):
        return ((x @ params["matrix"] + params["bias"] - y) ** 2).sum()

    @jax.jit
    def step(params, state):
        return optimizer.update(jax.grad(loss)(params), state, params, 1e-3)

    first = loss(params)
    for _ in range(60):
        params, state = step(params, state)
    assert loss(params) < 0.2 * first
    sizes = [leaf.size for leaf in jax.tree.leaves(state["adafactor"])]
    assert max(sizes) <= 140  # the point of it: nothing as large as the matrix


def test_clipping_limits_the_global_norm_and_keeps_the_direction():
    gradients = random(0)
    norm = optax.global_norm(gradients)
    clipped = clip(gradients, norm, 0.5)
    assert optax.global_norm(clipped) == pytest.approx(0.5, rel=1e-5)
    for name, gradient in gradients.items():
        assert_close(clipped[name], gradient * (0.5 / norm), 1e-6)
        np.testing.assert_array_equal(clip(gradients, norm, 1e9)[name], gradient)
        np.testing.assert_array_equal(clip(gradients, norm, None)[name], gradient)
