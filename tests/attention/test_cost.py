"""Blockwise attention is linear in memory, and its work suits the mask."""

from functools import cache

import jax
import jax.numpy as jnp
import pytest

from rnope_jax.attention import AttentionSpec, attend
from rnope_jax.attention.blockwise import TILE, WINDOW_BLOCK
from tests.helpers import equations, product_flops

HEADS, DIM, WINDOW = 2, 8, 32


def arguments(length):
    shape = jax.ShapeDtypeStruct((1, length, HEADS, DIM), jnp.float32)
    return shape, shape, shape, jax.ShapeDtypeStruct((1, length), jnp.int32)


def forward_and_backward(window, backend="blockwise"):
    spec = AttentionSpec(scale=0.3, window=window)

    def loss(q, k, v, segments):
        return (attend(q, k, v, spec, segment_ids=segments, backend=backend) ** 2).sum()

    return jax.value_and_grad(loss, (0, 1, 2))


@cache
def temporary_bytes(window, length, backend="blockwise"):
    compiled = jax.jit(forward_and_backward(window, backend)).lower(*arguments(length)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def largest_square(window, length, backend="blockwise"):
    """The largest array of which two dimensions are at least `length`, or None."""
    jaxpr = jax.make_jaxpr(forward_and_backward(window, backend))(*arguments(length))
    shapes = {var.aval.shape for equation, _ in equations(jaxpr) for var in equation.outvars}
    return max((s for s in shapes if sum(size >= length for size in s) >= 2), default=None)


@pytest.mark.parametrize("window", [None, WINDOW])
def test_no_array_of_sequence_by_sequence_exists(window):
    assert largest_square(window, 2048) is None
    assert largest_square(window, 2048, "reference") is not None  # the check itself can see one


@pytest.mark.parametrize("window", [None, WINDOW])
def test_memory_grows_with_the_sequence_not_with_its_square(window):
    short, long = temporary_bytes(window, 4096), temporary_bytes(window, 8192)
    assert long < 2.2 * short
    assert long < 8192 * 8192 * 4 / 10


def test_a_window_layer_keeps_no_weights_for_the_backward_pass():
    window, length = 256, 4096
    assert temporary_bytes(window, length) < HEADS * length * window * 4


def test_work_of_a_window_layer_is_linear_and_near_the_window():
    for function in (forward_only(WINDOW), forward_and_backward(WINDOW)):
        assert product_flops(function, *arguments(8192)) == 2 * product_flops(function, *arguments(4096))
    # Each block of queries meets the keys of its block and the W - 1 before it.
    pairs = 4096 * (WINDOW_BLOCK + WINDOW - 1)
    assert product_flops(forward_only(WINDOW), *arguments(4096)) == 4 * HEADS * DIM * pairs


def test_work_of_a_full_layer_is_the_lower_triangle():
    tiles = 4096 // TILE
    pairs = tiles * (tiles + 1) // 2 * TILE**2
    assert product_flops(forward_only(None), *arguments(4096)) == 4 * HEADS * DIM * pairs
    assert pairs < 0.54 * 4096**2


@pytest.mark.parametrize("ids", [(1, 2, 3), (3, 2, 1)], ids=str)
def test_tiles_of_a_full_layer_between_documents_are_never_visited(ids):
    """What is not visited leaves no trace: where a tile is, NaN times the weight of a masked key is NaN."""
    length, edges = 5 * TILE, (2 * TILE, 3 * TILE)
    segments = jnp.repeat(jnp.asarray(ids, jnp.int32), jnp.diff(jnp.asarray((0, *edges, length))))[None]
    q, k, v = (jax.random.normal(jax.random.key(i), (1, length, HEADS, DIM)) for i in range(3))
    middle = slice(*edges)
    broken = [x.at[:, middle].set(jnp.nan) for x in (q, k, v)]

    @jax.jit
    def output_and_gradients(q, k, v):
        out, vjp = jax.vjp(lambda q, k, v: forward_only(None)(q, k, v, segments), q, k, v)
        return out, *vjp(jnp.sin(out))

    expected, found = output_and_gradients(q, k, v), output_and_gradients(*broken)
    for whole, part in zip(expected, found, strict=True):
        assert jnp.isnan(part[:, middle]).all()
        for others in (slice(edges[0]), slice(edges[1], None)):
            assert (part[:, others] == whole[:, others]).all()


def forward_only(window):
    spec = AttentionSpec(scale=0.3, window=window)
    return lambda q, k, v, segments: attend(q, k, v, spec, segment_ids=segments, backend="blockwise")
