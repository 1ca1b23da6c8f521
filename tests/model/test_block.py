"""One layer against its definition in numpy, for every combination of what a kind can say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnope_jax.layers import LayerKind, LogScaling
from rnope_jax.model.norm import LayerNorm
from rnope_jax.model.rope import rotate, rotation
from tests.helpers import assert_close, pack, random_params, tiny_model
from tests.model import definition

KINDS = {
    "rope window": LayerKind(100.0, 4),
    "nope full": LayerKind(None, None),
    "rope full": LayerKind(100.0, None),
    "nope window": LayerKind(None, 4),
    "qk-norm rope": LayerKind(100.0, None, qk_norm=True),
    "qk-norm nope window": LayerKind(None, 4, qk_norm=True),
    "log scaling nope": LayerKind(None, None, log_scaling=LogScaling(8.0)),
    "everything": LayerKind(100.0, 4, qk_norm=True, log_scaling=LogScaling(8.0)),
}
LENGTH = 14


def layer(kind, **changes):
    """Configuration, parameters, block, input, positions and segments of one packed layer."""
    config = tiny_model(pattern=(kind,), num_layers=1, **changes)
    params = definition.layer_params(config, random_params(config, gain=2.0), 0)
    h = np.random.default_rng(1).normal(0, 2, (2, LENGTH, config.d_model)).astype(np.float32)
    segments, positions = pack([9, 5], [1, 13], length=LENGTH)
    return config, params, definition.single_block(config, kind, params), h, positions, segments


CASES = [*((name, 2) for name in KINDS), ("everything", 1), ("everything", 4)]


@pytest.mark.parametrize(("name", "kv_heads"), CASES)
def test_block_equals_its_definition(name, kv_heads):
    kind = KINDS[name]
    config, params, block, h, positions, segments = layer(kind, num_kv_heads=kv_heads)
    # A hybrid has rotations, which are none of a NoPE layer's business.
    actual, _ = jax.jit(lambda h: block(h, definition.rows_of(config, positions, segments, thetas=(100.0,))))(h)
    assert_close(actual, definition.block(config, kind, params, h, positions, segments), 1e-5)


@pytest.mark.parametrize("change", [{"qk_norm": False}, {"log_scaling": None}, {"rope_theta": None}, {"window": None}])
def test_every_field_of_a_kind_changes_the_result(change):
    """Without this the test above could pass on a definition that ignores a field."""
    config, params, _, h, positions, segments = layer(KINDS["everything"])
    outputs = [
        definition.block(config, kind, params, h, positions, segments)
        for kind in (KINDS["everything"], dataclasses.replace(KINDS["everything"], **change))
    ]
    assert np.abs(outputs[0] - outputs[1]).max() > 0.05


def test_norm_is_computed_in_float32_whatever_the_activations_are():
    norm = LayerNorm((32,), (None,), 1e-5)
    # Far from zero, where the mean and the variance of bfloat16 would be useless.
    x = jnp.asarray(np.random.default_rng(0).normal(100, 1, (4, 32)), "bfloat16")
    expected = definition.layer_norm(np.asarray(x, np.float64), 1.0, 1e-5)
    actual = norm(x)
    assert actual.dtype == x.dtype
    assert_close(actual, expected, 5e-3)


@pytest.mark.parametrize("eps", [1e-5, 1.0])
def test_norm_adds_eps_to_the_variance(eps):
    x = np.random.default_rng(0).normal(0, 1, (4, 8)).astype(np.float32)
    assert_close(LayerNorm((8,), (None,), eps)(x), definition.layer_norm(x, 1.0, eps), 1e-6)


def test_rotation_keeps_lengths_and_depends_on_distances_only():
    rng = np.random.default_rng(0)
    q, k = (np.broadcast_to(rng.normal(size=(1, 1, 1, 8)), (1, 20, 1, 8)).astype(np.float32) for _ in range(2))
    turn = rotation(definition.positions_from_zero(1, 20), 50.0, 8)
    a, b = rotate(q, turn)[0, :, 0], rotate(k, turn)[0, :, 0]
    assert_close((a**2).sum(-1), (q[0, :, 0] ** 2).sum(-1), 1e-5)
    products = np.asarray(a @ b.T)
    for distance in range(-19, 20):
        assert np.ptp(np.diagonal(products, distance)) < 1e-4
    assert np.ptp(products[:, 0]) > 0.1


def test_rotation_in_bfloat16_has_the_angles_of_float32():
    x = np.random.default_rng(0).normal(size=(1, 1, 1, 8)).astype(np.float32)
    turn = rotation(jnp.array([[4001]]), 100.0, 8)
    actual = rotate(jnp.asarray(x, "bfloat16"), turn)
    assert actual.dtype == "bfloat16"
    assert_close(actual, definition.rotate(x.astype(np.float64), np.array([[4001]]), 100.0), 2e-2)
