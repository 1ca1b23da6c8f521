"""The reference backend and the masks against a loop written from the definition."""

import typing

import jax.numpy as jnp
import numpy as np
import pytest

from rnope_jax.attention import BACKENDS, AttentionSpec, attend, choose, default_scale, visible
from rnope_jax.attention.reference import attend_positions
from rnope_jax.config import ModelConfig
from rnope_jax.errors import UserError
from tests.helpers import assert_close, pack

SCALE = 0.4


def draw(batch, length, heads, kv_heads, dim, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(batch, length, n, dim)), jnp.float32) for n in (heads, kv_heads, kv_heads)]


def by_definition(q, k, v, window, segments):
    """Query i of a document sees the keys i - W + 1 .. i of the same document."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    share = q.shape[2] // k.shape[2]
    for b, i, h in np.ndindex(q.shape[:3]):
        first = 0 if window is None else max(0, i - window + 1)
        seen = [j for j in range(first, i + 1) if segments[b, j] == segments[b, i]]
        logits = np.array([q[b, i, h] @ k[b, j, h // share] for j in seen]) * SCALE
        weights = np.exp(logits - logits.max())
        out[b, i, h] = weights / weights.sum() @ v[b, seen, h // share]
    return out


@pytest.mark.parametrize("window", [None, 1, 2, 5, 40])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_reference_is_softmax_over_the_last_window_keys_of_the_document(window, kv_heads):
    q, k, v = draw(2, 19, 4, kv_heads, 6)
    spec = AttentionSpec(scale=SCALE, window=window)
    packed, _ = pack([3, 12, 4], [1, 1, 16], length=19)
    for segments in (None, packed):
        expected = by_definition(q, k, v, window, np.ones((2, 19)) if segments is None else np.asarray(segments))
        actual = attend(q, k, v, spec, segment_ids=segments, backend="reference")
        assert_close(actual, expected, 1e-5)


@pytest.mark.parametrize("window", [None, 1, 3, 50])
def test_slots_in_any_order_give_what_the_row_gives(window):
    length, empty = 13, 4
    q, k, v = draw(2, length, 4, 2, 8)
    spec = AttentionSpec(scale=SCALE, window=window)
    expected = attend(q, k, v, spec, backend="reference")

    # As a ring holds them: shuffled differently in each row, among empty slots with garbage in them.
    rng = np.random.default_rng(1)
    order = np.stack([rng.permutation(length + empty) for _ in range(2)])
    rows = np.arange(2)[:, None]
    garbage = jnp.full((2, empty, 2, 8), 1e4)
    keys, values = (jnp.concatenate([x, garbage], axis=1)[rows, order] for x in (k, v))
    positions = jnp.concatenate([jnp.arange(length), jnp.full(empty, -1)])[order]
    q_positions = jnp.broadcast_to(jnp.arange(length), (2, length))
    actual = attend_positions(q, keys, values, spec, q_positions=q_positions, k_positions=positions)
    assert_close(actual, expected, 1e-5)


def test_a_query_that_sees_nothing_gives_numbers():
    q, k, v = draw(1, 3, 2, 1, 4)
    positions = jnp.array([[-1, 0, 1]])
    spec = AttentionSpec(scale=SCALE)
    out = attend_positions(q, k, v, spec, q_positions=positions, k_positions=jnp.full((1, 3), -1))
    assert np.isfinite(np.asarray(out)).all()


def test_a_window_counts_the_query_itself():
    index = np.arange(6)
    assert (visible(index[:, None], index, 1) == np.eye(6, dtype=bool)).all()
    assert (visible(index[:, None], index, None) == np.tri(6, dtype=bool)).all()
    assert (np.asarray(visible(index[:, None], index, 3)).sum(1) == [1, 2, 3, 3, 3, 3]).all()


def test_the_default_scale_keeps_the_variance_of_dot_products():
    assert default_scale(64) == pytest.approx(1 / 8)


@pytest.mark.parametrize("window", [None, 4])
def test_an_unknown_backend_is_refused_by_name(window):
    q, k, v = draw(1, 4, 2, 1, 4)
    with pytest.raises(UserError, match=r"'flash'.*choose auto, reference, blockwise"):
        attend(q, k, v, AttentionSpec(scale=1.0, window=window), backend="flash")


def test_a_configuration_can_name_every_backend():
    named = typing.get_args(typing.get_type_hints(ModelConfig)["attention"])
    assert set(named) == {"auto", *BACKENDS}


@pytest.mark.parametrize("window", [None, 4])
def test_auto_names_what_runs(window):
    assert choose("auto", window) == "blockwise"
    assert choose("reference", window) == "reference"
