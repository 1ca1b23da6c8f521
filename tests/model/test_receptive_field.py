"""Which tokens can influence which, measured by gradients, and what positions matter to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnope_jax.layers import LayerKind, LogScaling, nope, rnope_swa, rope
from rnope_jax.model import bind
from tests.helpers import assert_close, pack, random_params, random_tokens, tiny_model
from tests.model import definition

LENGTH = 40


def influence(config, segments, positions):
    """influence[i, j]: whether the output of the model's only layer at i depends on its input at j."""
    kind = config.pattern[0]
    block = definition.single_block(config, kind, definition.layer_params(config, random_params(config), 0))
    rows = definition.rows_of(config, positions, segments)
    h = jnp.asarray(np.random.default_rng(2).normal(size=(1, LENGTH, config.d_model)), jnp.float32)

    def attended(h):
        return (block.attention(h, rows, None)[0][0], block(h, rows)[0][0])

    jacobians = jax.jit(jax.jacrev(attended))(h)
    return [np.abs(np.asarray(jacobian[:, :, 0])).max((1, 3)) > 0 for jacobian in jacobians]


@pytest.mark.parametrize(
    ("window", "theta", "backend"),
    [
        *((window, theta, "blockwise") for window in (None, 2, 16) for theta in (None, 100.0)),
        *[(1, 100.0, "blockwise"), (2, 100.0, "reference"), (None, None, "reference")],
    ],
)
def test_a_layer_sees_exactly_its_window_within_the_document(window, theta, backend):
    config = tiny_model(pattern=(LayerKind(theta, window),), num_layers=1, d_model=4, head_dim=4, attention=backend)
    i, j = np.indices((LENGTH, LENGTH))
    band = (j <= i) & (j > i - (window or LENGTH))
    segments, positions = pack([11, 1, 28], length=LENGTH)
    same = np.asarray(segments[0][:, None] == segments[0][None, :])
    for field in influence(config, None, definition.positions_from_zero(1, LENGTH)):
        assert (field == band).all()
    for field in influence(config, segments, positions):
        assert (field == (band & same)).all()


@pytest.mark.parametrize("window", [2, 4])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_stack_of_window_layers_reaches_back_exactly_window_minus_one_per_layer(window, layers):
    config = tiny_model(pattern=(LayerKind(100.0, window),), num_layers=layers)
    params = random_params(config)
    tokens = jnp.arange(LENGTH)[None]  # every position has an embedding of its own
    direction = np.random.default_rng(0).normal(size=config.d_model)

    def last(embedding):
        return bind(config, {**params, "embedding": embedding}).hidden(tokens)[0, -1] @ direction

    gradient = np.asarray(jax.jit(jax.grad(last))(params["embedding"]))[:LENGTH]
    reached = np.flatnonzero(np.abs(gradient).max(-1))
    assert list(reached) == list(range(LENGTH - 1 - layers * (window - 1), LENGTH))


def logits(config, positions):
    tokens = random_tokens(config, 2, positions.shape[-1])
    positions = jnp.broadcast_to(positions, tokens.shape)
    return jax.jit(lambda p: bind(config, p)(tokens, positions=positions))(random_params(config))


@pytest.mark.parametrize("pattern", [rnope_swa(window=5, theta=100.0), rope(100.0)], ids=["rnope_swa", "rope"])
def test_moving_all_positions_changes_nothing_but_stretching_them_does(pattern):
    config = tiny_model(pattern=pattern, num_layers=4)
    usual = logits(config, jnp.arange(20))
    assert_close(logits(config, jnp.arange(20) + 100), usual, 1e-4)
    assert np.abs(logits(config, jnp.arange(20) * 2) - usual).max() > 0.1


def test_a_model_without_position_encoding_does_not_read_positions():
    config = tiny_model(pattern=nope())
    assert (logits(config, jnp.arange(20)) == logits(config, jnp.arange(20) ** 2)).all()


def test_log_scaling_reads_absolute_positions():
    config = tiny_model(pattern=(LayerKind(None, None, log_scaling=LogScaling(4.0)),))
    assert np.abs(logits(config, jnp.arange(20)) - logits(config, jnp.arange(20) + 100)).max() > 0.1


@pytest.mark.parametrize("kind", [LayerKind(None, None), LayerKind(100.0, None)], ids=["nope", "rope"])
def test_only_a_layer_without_position_encoding_is_blind_to_the_order_of_the_prefix(kind):
    config = tiny_model(pattern=(kind,), num_layers=1)
    block = definition.single_block(config, kind, definition.layer_params(config, random_params(config, gain=2.0), 0))
    rng = np.random.default_rng(0)
    h = rng.normal(size=(1, LENGTH, config.d_model)).astype(np.float32)
    order = np.append(rng.permutation(LENGTH - 1), LENGTH - 1)
    rows = definition.rows_of(config, definition.positions_from_zero(1, LENGTH))
    attend = jax.jit(lambda h: block.attention(h, rows, None)[0][0, -1])
    difference = np.abs(attend(h) - attend(h[:, order])).max()
    assert difference < 1e-5 if kind.rope_theta is None else difference > 1e-2
