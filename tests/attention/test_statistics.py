"""Sums over attention weights, block by block, against all weights in memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnope_jax.attention import AttentionSpec, statistics
from tests.helpers import assert_close

BATCH, LENGTH, HEADS, DIM, TOKENS = 2, 5, 4, 8, 21


def inputs(slots, kv_heads, window, seed=0):
    """Queries at the end of `TOKENS` tokens that lie in slots in any order; empty slots hold garbage."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(BATCH, LENGTH, HEADS, DIM)).astype(np.float32)
    keys = rng.normal(size=(BATCH, kv_heads, slots, DIM)).astype(np.float32)
    order = np.stack([rng.permutation(slots) for _ in range(BATCH)])
    positions = np.where(order < TOKENS, order, -1)
    keys = np.where((positions < 0)[:, None, :, None], 1e3, keys).astype(np.float32)
    weights = rng.uniform(0.1, 1, (BATCH, LENGTH)).astype(np.float32)
    weights[0, 1] = 0
    return {
        "q": q,
        "keys": keys,
        "spec": AttentionSpec(scale=0.7, window=window),
        "q_positions": np.broadcast_to(np.arange(TOKENS - LENGTH, TOKENS), (BATCH, LENGTH)),
        "k_positions": positions,
        "query_weights": weights,
        "groups": rng.integers(-1, 3, (BATCH, TOKENS)),
        "num_groups": 3,
    }


def dense(q, keys, spec, q_positions, k_positions, query_weights, groups, num_groups):
    """Mass, entropy and relative entropy, query by query in float64."""
    mass, entropy, relative = np.zeros((HEADS, num_groups)), np.zeros(HEADS), np.zeros(HEADS)
    for b, i, h in np.ndindex(BATCH, LENGTH, HEADS):
        at, own = q_positions[b, i], k_positions[b]
        seen = (own >= 0) & (own <= at) & (own > at - (spec.window or TOKENS))
        logits = keys[b, h * keys.shape[1] // HEADS, seen].astype(float) @ q[b, i, h].astype(float) * spec.scale
        share = np.exp(logits - logits.max())
        share /= share.sum()
        counts = query_weights[b, i] / query_weights.sum()
        for position, value in zip(own[seen], share, strict=True):
            if groups[b, position] >= 0:
                mass[h, groups[b, position]] += counts * value
        bits = -(share * np.log2(share)).sum()
        entropy[h] += counts * bits
        relative[h] += counts * (bits / np.log2(len(share)) if len(share) > 1 else 0)
    return mass, entropy, relative


def found(arguments):
    static = {name: arguments[name] for name in ("spec", "num_groups")}
    arrays = {name: jnp.asarray(value) for name, value in arguments.items() if name not in static}
    return jax.jit(partial(statistics.statistics, **static))(**arrays)


@pytest.mark.parametrize(("slots", "kv_heads", "window"), [(24, 2, None), (25, 4, 3), (23, 1, 1), (24, 2, 90)])
def test_blocks_give_what_all_weights_together_give(monkeypatch, slots, kv_heads, window):
    monkeypatch.setattr(statistics, "BLOCK", 8)
    arguments = inputs(slots, kv_heads, window)
    for ours, theirs in zip(found(arguments), dense(**arguments), strict=True):
        assert_close(ours, theirs, 1e-5, floor=1.0)


def test_masses_of_groups_that_hold_every_key_sum_to_one(monkeypatch):
    monkeypatch.setattr(statistics, "BLOCK", 8)
    arguments = inputs(25, 2, 4)
    arguments["groups"] = np.abs(arguments["groups"])
    assert_close(found(arguments).mass.sum(-1), np.ones(HEADS), 1e-6)


def test_many_small_weights_sum_to_one():
    keys = 100_003  # of one group: added one by one, they would lose a thousandth
    result = statistics.statistics(
        jnp.zeros((1, 1, 1, 2)),
        jnp.zeros((1, 1, keys, 2)),
        AttentionSpec(scale=1.0),
        q_positions=jnp.full((1, 1), keys),
        k_positions=jnp.arange(keys)[None],
        query_weights=jnp.ones((1, 1)),
        groups=jnp.zeros((1, keys), jnp.int32),
        num_groups=1,
    )
    assert_close(result.mass, np.ones((1, 1)), 2e-6)
    assert_close(result.entropy, np.log2([keys]), 5e-6)


def test_even_attention_has_all_of_the_entropy_that_there_can_be():
    arguments = inputs(25, 2, 8)
    arguments["q"] = np.zeros_like(arguments["q"])
    result = found(arguments)
    assert_close(result.entropy, np.full(HEADS, 3.0), 1e-6)  # 8 keys
    assert_close(result.relative_entropy, np.ones(HEADS), 1e-6)


def test_memory_does_not_hold_all_weights():
    queries, keys = 64, 1 << 16
    shapes = {
        "q": jax.ShapeDtypeStruct((1, queries, 8, 16), jnp.float32),
        "keys": jax.ShapeDtypeStruct((1, 2, keys, 16), jnp.float32),
        "q_positions": jax.ShapeDtypeStruct((1, queries), jnp.int32),
        "k_positions": jax.ShapeDtypeStruct((1, keys), jnp.int32),
        "query_weights": jax.ShapeDtypeStruct((1, queries), jnp.float32),
        "groups": jax.ShapeDtypeStruct((1, keys), jnp.int32),
    }
    function = partial(statistics.statistics, spec=AttentionSpec(scale=1.0), num_groups=4)
    compiled = jax.jit(lambda arrays: function(**arrays)).lower(shapes).compile()
    weights = 4 * 8 * queries * keys
    assert compiled.memory_analysis().temp_size_in_bytes < weights / 4
