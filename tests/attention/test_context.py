"""Rows that are split over devices in zigzag order attend as whole rows do."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from rnope_jax.attention import AttentionSpec, attend, pallas_gpu, splash
from rnope_jax.attention.context import zigzag
from rnope_jax.attention.reference import attend as reference
from rnope_jax.config import MeshConfig
from rnope_jax.errors import UserError
from rnope_jax.sharding import make_mesh, partition
from tests.helpers import assert_close, pack

LENGTH, HEADS, KV_HEADS, DIM = 96, 4, 2, 8

#: Longer and shorter than twice the window, across chunks and devices; padding at the end of the second row.
DOCUMENTS = ((41, 1, 30, 24), (7, 13, 64))


@functools.cache
def arrays():
    rng = np.random.default_rng(0)
    shapes = [(2, LENGTH, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)]
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def mesh_of(context: int, **others: int) -> jax.sharding.Mesh:
    count = context * int(np.prod(list(others.values())))
    return make_mesh(MeshConfig(**{"fsdp": 1, "context": context, **others}), jax.devices()[:count])


def split_over(mesh, spec, segments):
    """Output and gradients of split rows, in the order of the row."""
    q, k, v, weights = arrays()
    order = zigzag(LENGTH, mesh.shape["context"])
    places = [NamedSharding(mesh, partition(("batch", "sequence", None, None)))] * 3

    def total(q, k, v):
        ids = None if segments is None else segments[:, order]
        out = attend(q, k, v, spec, segment_ids=ids)
        return (out * weights[:, order]).sum(), out

    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))
        gradients, out = step(*jax.device_put([x[:, order] for x in (q, k, v)], places))
    return [np.asarray(x)[:, np.argsort(order)] for x in (out, *gradients)]


@functools.cache
def whole(window, packed):
    q, k, v, weights = arrays()
    segments = pack(*DOCUMENTS, length=LENGTH)[0] if packed else None
    spec = AttentionSpec(scale=DIM**-0.5, window=window)

    def total(q, k, v):
        out = reference(q, k, v, spec, segment_ids=segments)
        return (out * weights).sum(), out

    gradients, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return [out, *gradients]


# With 8 devices a chunk has 6 tokens: a window of 33 reaches over six of them, one of 80 over all.
@pytest.mark.parametrize("context", [2, 3, 8])
@pytest.mark.parametrize("window", [None, 1, 2, 7, 33, 80, 200])
def test_split_rows_attend_as_whole_rows_do(context, window):
    segments = pack(*DOCUMENTS, length=LENGTH)[0]
    found = split_over(mesh_of(context), AttentionSpec(scale=DIM**-0.5, window=window), segments)
    for name, actual, expected in zip("oqkv", found, whole(window, True), strict=True):
        assert_close(actual, expected, 1e-5, name)


@pytest.mark.parametrize("window", [None, 20])
def test_rows_of_one_document(window):
    found = split_over(mesh_of(4), AttentionSpec(scale=DIM**-0.5, window=window), None)
    for name, actual, expected in zip("oqkv", found, whole(window, False), strict=True):
        assert_close(actual, expected, 1e-5, name)


# Splash takes no chunks of less than 128 tokens.
SPLIT = [
    *[("splash", 1024, *case) for case in ((2, None), (4, None), (2, 150), (4, 300), (4, 1))],
    *[("pallas_gpu", 256, *case) for case in ((4, None), (4, 75))],
]


@pytest.mark.parametrize(("backend", "length", "context", "window"), SPLIT)
def test_kernels_attend_to_split_rows(backend, length, context, window):
    """In chunks of two blocks, or of one that is shorter than the window; the kernels are interpreted."""
    rng = np.random.default_rng(0)
    q, k, v, weights = (jnp.asarray(rng.normal(size=(1, length, n, DIM)), jnp.float32) for n in (2, 1, 1, 2))
    documents = (25 * length // 64, 1, 125 * length // 256)
    segments = pack(documents, length=length)[0]
    spec = AttentionSpec(scale=DIM**-0.5, window=window)

    def gradients(attend, order):
        def total(q, k, v):
            out = attend(q, k, v, spec, segment_ids=segments[:, order])
            return (out * weights[:, order]).sum(), out

        gradients, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*(x[:, order] for x in (q, k, v)))
        return [np.asarray(x)[:, np.argsort(order)] for x in (out, *gradients)]

    with splash.interpreted(), pallas_gpu.interpreted(16, 32), jax.set_mesh(mesh_of(context)):
        found = gradients(functools.partial(attend, backend=backend), zigzag(length, context))
    for name, actual, expected in zip("oqkv", found, gradients(reference, np.arange(length)), strict=True):
        # Padding (segment 0) stands at the end of the row: nobody looks at what it computes.
        end = sum(documents) if name in "oq" else length
        assert_close(actual[:, :end], expected[:, :end], 1e-4, name, floor=1.0)


@pytest.mark.parametrize(("backend", "multiple"), [("splash", 256), ("pallas_gpu", 32)])
def test_kernels_refuse_chunks_that_no_block_divides(backend, multiple):
    q, k, v, _ = arrays()
    with (
        splash.interpreted(),
        pallas_gpu.interpreted(),
        jax.set_mesh(mesh_of(2)),
        pytest.raises(UserError, match=rf"a multiple of {multiple} x mesh\.context"),
    ):
        attend(q, k, v, AttentionSpec(scale=1.0), backend=backend)


def test_cudnn_refuses_rows_that_are_split():
    q, k, v, _ = arrays()
    with jax.set_mesh(mesh_of(2)), pytest.raises(UserError, match=r"'cudnn' cannot split rows over mesh\.context"):
        attend(q, k, v, AttentionSpec(scale=1.0), backend="cudnn")


def test_heads_and_rows_may_be_split_as_well():
    segments = pack(*DOCUMENTS, length=LENGTH)[0]
    for window in (None, 9):
        found = split_over(mesh_of(2, fsdp=2, tensor=2), AttentionSpec(scale=DIM**-0.5, window=window), segments)
        for name, actual, expected in zip("oqkv", found, whole(window, True), strict=True):
            assert_close(actual, expected, 1e-5, name)


def traffic(context: int, length: int, window: int | None) -> int:
    """Elements that each device receives in the forward pass, summed over the collectives of the compiled program."""
    mesh = mesh_of(context)
    shape = jax.ShapeDtypeStruct
    rows = NamedSharding(mesh, partition(("batch", "sequence", None, None)))
    ids = NamedSharding(mesh, partition(("batch", "sequence")))
    arguments = [shape((1, length, heads, DIM), jnp.float32, sharding=rows) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    spec = AttentionSpec(scale=1.0, window=window)
    with jax.set_mesh(mesh):
        run = jax.jit(lambda q, k, v, s: attend(q, k, v, spec, segment_ids=s))
        text = run.lower(*arguments, shape((1, length), jnp.int32, sharding=ids)).compile().as_text()
    assert "all-to-all" not in text
    assert "all-reduce" not in text
    total = 0
    for dims, kind in re.findall(r"= \w+\[([\d,]*)\]\S* (collective-permute|all-gather)\(", text):
        size = int(np.prod([int(d) for d in dims.split(",")]))
        total += size if kind == "collective-permute" else size * (context - 1) // context
    return total


def test_what_a_window_layer_is_sent_does_not_depend_on_the_length():
    window = 17
    sent = {length: traffic(4, length, window) for length in (256, 512, 2048)}
    assert len(set(sent.values())) == 1, sent
    # Two chunks, window - 1 tokens each: keys and values, and the document of each.
    assert sent[256] == 2 * (window - 1) * (2 * KV_HEADS * DIM + 1)
    assert traffic(4, 2048, None) == 3 * 2048 // 4 * (2 * KV_HEADS * DIM + 1)


def test_zigzag_gives_each_device_the_same_causal_work():
    for parts in (1, 2, 5):
        order = zigzag(40, parts).reshape(parts, -1)
        assert sorted(order.reshape(-1)) == list(range(40))
        assert len(set(order.sum(1))) == 1
        assert (np.diff(order[:, : 20 // parts]) == 1).all()
        assert order[0, 0] == 0
        assert order[0, -1] == 39


def test_a_backend_that_cannot_split_rows_refuses():
    q, k, v, _ = arrays()
    with jax.set_mesh(mesh_of(2)), pytest.raises(UserError, match=r"model\.attention = 'reference' cannot split rows"):
        attend(q, k, v, AttentionSpec(scale=1.0), backend="reference")
