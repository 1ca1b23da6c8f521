"""Every backend computes what the reference computes, forward and backward, over every feature."""

from contextlib import contextmanager
from functools import cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnope_jax.attention import BACKENDS, AttentionSpec, attend, cudnn, pallas_gpu, splash
from tests.helpers import assert_close, pack

OTHERS = [name for name in BACKENDS if name != "reference"]
#: Interpreted here, which is slow to compile.
KERNELS = ("splash", "pallas_gpu")
#: Takes rows of one document only; test_cudnn.py shows that it refuses others.
UNPACKED = ("cudnn",)
HEADS, DIM = 4, 8


def inputs(length, kv_heads, dtype=jnp.float32):
    """Queries, keys, values and the gradient of the output."""
    rng = np.random.default_rng(length)
    heads = (HEADS, kv_heads, kv_heads, HEADS)
    return [jnp.asarray(rng.normal(size=(2, length, n, DIM)), dtype) for n in heads]


def documents(length):
    """Two rows cut differently: documents of one token, across blocks and tiles, and padding."""
    a, b = length // 5, length // 3
    return pack([a, 1, length - a - 1], [length - b - 2 * (b // 2), b // 2, b // 2], length=length)[0]


@contextmanager
def anywhere():
    """Inside, every backend runs here: kernels are interpreted, and XLA computes what cuDNN is asked for."""
    with splash.interpreted(), pallas_gpu.interpreted(), cudnn.emulated():
        yield


@partial(jax.jit, static_argnames=("spec", "backend"))
def forward_and_backward(q, k, v, gradient, segments, spec, backend):
    out, vjp = jax.vjp(lambda q, k, v: attend(q, k, v, spec, segment_ids=segments, backend=backend), q, k, v)
    return out, *vjp(gradient)


@cache
def expected(length, window, kv_heads, packed, dtype=jnp.float32):
    """What the reference says, computed in float32."""
    segments = documents(length) if packed else None
    args = [x.astype(jnp.float32) for x in inputs(length, kv_heads, dtype)]
    return forward_and_backward(*args, segments, AttentionSpec(scale=0.5, window=window), "reference")


def check(backend, length, window, kv_heads, packed, dtype=jnp.float32, tolerance=1e-5):
    args = inputs(length, kv_heads, dtype)
    segments = documents(length) if packed else None
    with anywhere():
        actual = forward_and_backward(*args, segments, AttentionSpec(scale=0.5, window=window), backend)
    names = ("output", "dq", "dk", "dv")
    for name, x, y in zip(names, actual, expected(length, window, kv_heads, packed, dtype), strict=True):
        assert x.dtype == dtype
        # A query that sees one key has no gradient but rounding.
        assert_close(x, y, tolerance, name, floor=1.0)


WINDOWS = [None, 1, 2, 16, 600]
LAYOUTS = [(2, True), (1, True), (4, True), (2, False)]


def features():
    """Every backend with every window and every layout of heads and documents."""
    for backend, (i, window), (j, (kv_heads, packed)) in product(OTHERS, enumerate(WINDOWS), enumerate(LAYOUTS)):
        if packed and backend in UNPACKED:
            continue
        # Of kernels every feature once, not every pair.
        if backend not in KERNELS or i % len(LAYOUTS) == j:
            name = f"{backend}-window{window}-kv{kv_heads}{'' if packed else '-whole'}"
            yield pytest.param(backend, window, kv_heads, packed, id=name)


# 531 tokens: three tiles of full attention, nine blocks of a window, and a multiple of neither.
@pytest.mark.parametrize(("backend", "window", "kv_heads", "packed"), features())
def test_backend_equals_reference(backend, window, kv_heads, packed):
    check(backend, 531, window, kv_heads, packed)


# Around the edges of blocks (64), of tiles (256) and of the window itself.
EDGES = [
    *[(1, None), (1, 1), (9, 3), (64, 63), (65, 64), (65, 65), (128, 2), (200, 65)],
    *[(100, 99), (300, 256), (256, None), (257, None)],
]


# Those of kernels are in test_splash.py and test_pallas_gpu.py.
@pytest.mark.parametrize("backend", [name for name in OTHERS if name not in KERNELS])
@pytest.mark.parametrize(("length", "window"), EDGES)
def test_backend_equals_reference_at_the_edges_of_blocks(backend, length, window):
    check(backend, length, window, 2, packed=length > 8 and backend not in UNPACKED)


def with_windows():
    """Every backend with full attention and with a window; the GPU kernels with one that has tiles of every kind."""
    for backend in OTHERS:
        for window in (150,) if backend == "pallas_gpu" else (None, 16):
            yield pytest.param(backend, window, id=f"{backend}-{window}")


@pytest.mark.parametrize(("backend", "window"), with_windows())
def test_backend_in_bfloat16_stays_near_float32(backend, window):
    check(backend, 531, window, 2, packed=backend not in UNPACKED, dtype=jnp.bfloat16, tolerance=2e-2)


@pytest.mark.parametrize(("backend", "window"), with_windows())
def test_backend_survives_large_logits(backend, window):
    q, k, v, gradient = inputs(300, 2)
    spec = AttentionSpec(scale=100.0, window=window)
    with anywhere():
        actual = forward_and_backward(q, k, v, gradient, None, spec, backend)
    reference = forward_and_backward(q, k, v, gradient, None, spec, "reference")
    for x, y in zip(actual, reference, strict=True):
        assert_close(x, y, 1e-3)
