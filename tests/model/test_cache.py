"""Prefill in chunks and decoding token by token give what the whole row gives."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnope_jax import flops
from rnope_jax.inference import arrange
from rnope_jax.layers import LayerKind, LogScaling, rnope_swa
from rnope_jax.model import bind, empty_cache
from tests.helpers import assert_close, random_params, random_tokens, tiny_model

BATCH = 3


@cache
def model(pattern, kv_heads, length, layers):
    """Configuration, parameters, tokens and the hidden states of whole rows."""
    config = tiny_model(pattern=pattern, num_kv_heads=kv_heads, num_layers=layers)
    params, tokens = random_params(config, gain=1.5), random_tokens(config, BATCH, length)
    expected = jax.jit(lambda params: bind(config, params).hidden(tokens))(params)
    return config, params, tokens, np.asarray(expected)


@partial(jax.jit, static_argnames="config")
def extend(config, params, tokens, positions, cache):
    return bind(config, params).extend(tokens, positions, cache)


def feed(config, params, tokens, starts, ends, chunk, cache, out):
    """Feeds tokens starts[b] .. ends[b] of each row b in chunks, padded where a row has no more, into `out`."""
    starts, ends = np.asarray(starts), np.asarray(ends)
    for offset in range(0, int((ends - starts).max()), chunk):
        positions = starts[:, None] + offset + np.arange(chunk)
        positions = np.where(positions < ends[:, None], positions, -1)
        fed = np.take_along_axis(np.asarray(tokens), np.maximum(positions, 0), axis=1)
        hidden, cache = extend(config, params, jnp.asarray(fed), jnp.asarray(positions), cache)
        row, column = np.nonzero(positions >= 0)
        out[row, positions[row, column]] = np.asarray(hidden)[row, column]
    return cache


def check(pattern, chunk, length, kv_heads=2, layers=3, context=None):
    """Ragged prompts in chunks, then token by token; the first row decodes from position 1 on."""
    config, params, tokens, expected = model(pattern, kv_heads, length, layers)
    out = np.full_like(expected, np.nan)
    prompts = np.array([1, length // 2, length - 1])
    cache = empty_cache(config, BATCH, context or length)
    cache = feed(config, params, tokens, np.zeros(BATCH, int), prompts, chunk, cache, out)
    feed(config, params, tokens, prompts, np.full(BATCH, length), 1, cache, out)
    assert_close(out, expected, 1e-5)


# Chunks of one token, of a few, longer than the window and longer than twice the window.
CHUNKS = {1: (1, 7), 2: (1, 3, 7), 5: (1, 7, 11), 16: (7, 35), 99: (7,)}


@pytest.mark.parametrize(("window", "chunk"), [(window, chunk) for window in CHUNKS for chunk in CHUNKS[window]])
def test_cached_equals_whole_rows_at_every_position(window, chunk):
    length = {1: 12, 2: 14, 5: 24, 16: 54, 99: 24}[window]
    check(rnope_swa(window=window, theta=100.0, ratio=1), chunk, length)


VARIANTS = {
    "3:1 with a remainder": (rnope_swa(window=5, theta=100.0), 2, 10),
    "remainder only": (rnope_swa(window=5, theta=100.0), 2, 3),
    "global first": (rnope_swa(window=5, theta=100.0, ratio=2, order="global_first"), 2, 4),
    "one key head": (rnope_swa(window=5, theta=100.0, ratio=1), 1, 3),
    "four key heads": (rnope_swa(window=5, theta=100.0, ratio=1), 4, 3),
    "qk-norm and log scaling": (
        (LayerKind(100.0, 5, qk_norm=True), LayerKind(None, None, log_scaling=LogScaling(4.0))),
        2,
        3,
    ),
    "two windows": ((LayerKind(100.0, 3), LayerKind(None, 9)), 2, 3),
}


@pytest.mark.parametrize(("pattern", "kv_heads", "layers"), VARIANTS.values(), ids=VARIANTS)
def test_cached_equals_whole_rows_in_every_variant(pattern, kv_heads, layers):
    check(pattern, 7, 24, kv_heads, layers)


def test_layers_one_by_one_compute_what_a_scan_computes():
    pattern = (LayerKind(100.0, 5), LayerKind(100.0, 2, qk_norm=True), LayerKind(None, None))
    config, params, tokens, expected = model(pattern, 2, 24, 7)  # two periods and a layer
    config = replace(config, remat="offload")  # which only layers in a scan can have
    unrolled, apart = arrange(config, params)
    assert (unrolled.num_periods, unrolled.layer_kinds) == (0, config.layer_kinds)
    assert unrolled.unrolled == unrolled
    out, cache = np.full_like(expected, np.nan), empty_cache(unrolled, BATCH, 24)
    cache = feed(unrolled, apart, tokens, np.zeros(BATCH, int), np.full(BATCH, 13), 13, cache, out)
    feed(unrolled, apart, tokens, np.full(BATCH, 13), np.full(BATCH, 24), 1, cache, out)
    assert_close(out, expected, 1e-5)


def test_a_context_longer_than_the_text_changes_nothing():
    check(rnope_swa(window=5, theta=100.0, ratio=1), 7, 24, context=61)


@pytest.mark.parametrize("context", [3, 5, 40])
def test_window_layers_hold_their_window_and_full_layers_the_context(context):
    config = tiny_model(pattern=rnope_swa(window=5), num_layers=11)
    stacked, single = empty_cache(config, BATCH, context)
    assert [layer.keys.shape for layer in stacked] == [(2, BATCH, 2, min(5, context), 8)] * 3 + [
        (2, BATCH, 2, context, 8)
    ]
    assert [layer.keys.shape[2] for layer in single] == [min(5, context)] * 3
    layers = [*stacked, *single]
    values = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert values == BATCH * flops.cache_bytes(config, context, bytes_per_value=4)
    assert all((layer.positions == -1).all() for layer in layers)


def test_a_cache_is_as_wide_as_the_activations():
    config = tiny_model(compute_dtype="bfloat16")
    stacked, _ = empty_cache(config, 1, 8)
    assert stacked[0].keys.dtype == stacked[0].values.dtype == jnp.bfloat16


def test_slots_hold_the_newest_tokens_of_the_window():
    config, params, tokens, _ = model(rnope_swa(window=5, theta=100.0, ratio=1), 2, 24, 3)
    cache = empty_cache(config, BATCH, 24)
    ends = np.array([3, 12, 0])
    (window, full), _ = feed(config, params, tokens, np.zeros(BATCH, int), ends, 7, cache, np.zeros((BATCH, 24, 16)))
    held, all_held = np.asarray(window.positions[0]), np.asarray(full.positions[0])
    for row, end in enumerate(ends):
        assert sorted(held[row][held[row] >= 0]) == list(range(max(0, end - 5), end))
        assert sorted(all_held[row][all_held[row] >= 0]) == list(range(end))
