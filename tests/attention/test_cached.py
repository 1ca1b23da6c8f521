"""Attention to a cache, in blocks of slots and at once, against the definition."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnope_jax.attention import AttentionSpec, cached
from rnope_jax.attention.reference import attend_positions
from tests.helpers import assert_close

BATCH, DIM = 2, 8


def slots(count, tokens, kv_heads, in_order, seed=0):
    """A cache [B, K, count, D] of `tokens` tokens; empty slots hold garbage."""
    rng = np.random.default_rng(seed)
    keys, values = rng.normal(size=(2, BATCH, kv_heads, count, DIM)).astype(np.float32)
    positions = np.where(np.arange(count) < tokens, np.arange(count), -1)
    order = [np.arange(count) if in_order else rng.permutation(count) for _ in range(BATCH)]
    positions = np.stack([positions[row] for row in order])
    empty = (positions < 0)[:, None, :, None]
    return [jnp.asarray(x) for x in (np.where(empty, 1e4, keys), np.where(empty, 1e4, values), positions)]


def both(length, count, tokens, window, kv_heads=2, in_order=True, filled=None):
    q = jnp.asarray(np.random.default_rng(1).normal(size=(BATCH, length, 4, DIM)), jnp.float32)
    keys, values, positions = slots(count, tokens, kv_heads, in_order)
    q_positions = jnp.broadcast_to(tokens - length + jnp.arange(length), (BATCH, length))
    spec = AttentionSpec(scale=0.4, window=window)
    where = {"q_positions": q_positions, "k_positions": positions}
    expected = attend_positions(q, keys.swapaxes(1, 2), values.swapaxes(1, 2), spec, **where)
    return jax.jit(partial(cached.attend, spec=spec))(q, keys, values, **where, filled=filled), expected


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize(("window", "kv_heads"), [(None, 2), (1, 1), (3, 4), (50, 2)])
def test_slots_in_any_order_give_what_the_definition_gives(monkeypatch, window, kv_heads, length):
    monkeypatch.setattr(cached, "SLOT_BLOCK", 4)
    for count in (16, 17):  # the last block is whole, or shares slots with the one before
        assert_close(*both(length, count, 13, window, kv_heads, in_order=False), 1e-5)


@pytest.mark.parametrize("filled", [13, 16, 99])
def test_slots_past_the_filled_ones_change_nothing(monkeypatch, filled):
    monkeypatch.setattr(cached, "SLOT_BLOCK", 4)
    assert_close(*both(5, 23, 13, None, filled=jnp.int32(filled)), 1e-5)


def test_slots_past_the_filled_ones_are_not_visited(monkeypatch):
    monkeypatch.setattr(cached, "SLOT_BLOCK", 4)
    few, _ = both(5, 23, 13, None, filled=jnp.int32(8))
    _, all_of_them = both(5, 23, 13, None)
    assert np.abs(few - all_of_them).max() > 1e-2


def test_a_query_that_sees_nothing_gives_a_finite_result(monkeypatch):
    monkeypatch.setattr(cached, "SLOT_BLOCK", 4)
    keys, values, positions = slots(12, 0, 2, in_order=True)
    q = jnp.ones((BATCH, 3, 4, DIM))
    where = {"q_positions": jnp.full((BATCH, 3), -1), "k_positions": positions}
    for filled in (None, jnp.int32(0)):
        out = cached.attend(q, keys, values, AttentionSpec(scale=0.4), **where, filled=filled)
        assert np.isfinite(out).all()


def test_the_memory_of_a_chunk_does_not_grow_with_the_context():
    def temporary(context):
        shape = jax.ShapeDtypeStruct
        q, kv = shape((1, 64, 4, DIM), jnp.float32), shape((1, 2, context, DIM), jnp.float32)
        where = [shape((1, n), jnp.int32) for n in (64, context)]

        def run(q, k, v, q_positions, k_positions):
            spec = AttentionSpec(scale=0.4)
            filled = q_positions.max() + 1
            return cached.attend(q, k, v, spec, q_positions=q_positions, k_positions=k_positions, filled=filled)

        return jax.jit(run).lower(q, kv, kv, *where).compile().memory_analysis().temp_size_in_bytes

    assert temporary(64 * cached.SLOT_BLOCK) <= 1.1 * temporary(2 * cached.SLOT_BLOCK)
