"""Splash attention: its tables are those of the library, its kernels those of the definition, its refusals clear.

What needs a TPU is interpreted on the CPU, or lowered for a TPU that is described but not there.
"""

import re
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention import CausalMask, LocalMask, MultiHeadMask
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import process_mask, process_mask_dkv
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

from rnope_jax import attention
from rnope_jax.attention import SAVED, AttentionSpec, attend, choose, splash, splash_masks
from rnope_jax.attention.splash_blocks import KINDS, NARROW, TABLE, Blocks, choose_blocks, fit
from rnope_jax.attention.splash_masks import key_table, query_table
from rnope_jax.config import MeshConfig
from rnope_jax.errors import UserError
from rnope_jax.model import bind
from rnope_jax.sharding import MESH_AXES, make_mesh
from tests.attention.comparison import check_against_reference, draw, forward_and_backward
from tests.helpers import equations, pack, product_flops, random_params, random_tokens, tiny_model

SPEC = AttentionSpec(scale=0.5, window=None)


# --- The tables ---


def whole_row(table, length, block_q, block_k, window):
    """The table of queries that are a whole row."""
    return table(np.arange(0, length, block_q), length, block_q, block_k, window)


@pytest.mark.parametrize("window", [None, 1, 2, 127, 128, 129, 200, 255, 257, 383, 384, 600, 1024])
@pytest.mark.parametrize("blocks", [(128, 128), (128, 256), (256, 128), (512, 256), (128, 512)], ids=str)
def test_tables_are_those_that_the_library_finds_in_the_mask(blocks, window):
    length = 1024
    mask = CausalMask((length, length)) if window is None else LocalMask((length, length), (window - 1, 0), 0)
    for ours, theirs in ((query_table, process_mask), (key_table, process_mask_dkv)):
        actual, (expected, function) = whole_row(ours, length, *blocks, window), theirs(MultiHeadMask([mask]), blocks)
        assert actual.block_mask.dtype == expected.block_mask.dtype
        assert actual.data_next.dtype == expected.data_next.dtype
        np.testing.assert_array_equal(actual.block_mask, expected.block_mask)
        np.testing.assert_array_equal(actual.q_sequence, expected.q_sequence)
        # Where nothing is computed the library loads block 0; ours the block that is needed next.
        visited = expected.block_mask > 0
        np.testing.assert_array_equal(actual.data_next[visited], expected.data_next[visited])
        assert actual.mask_next is expected.mask_next is None
        index = np.arange(length)
        ours_inside = splash_masks.mask_function(window)(index[:, None], index[None])
        np.testing.assert_array_equal(ours_inside, function(index[:, None], index[None]))


@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize("table", [query_table, key_table])
def test_a_skipped_step_loads_nothing_of_its_own(table, window):
    info = whole_row(table, 1024, 128, 128, window)
    # In the order of the grid: the dkv kernel goes through the queries of each block of keys.
    states, loads = (np.asarray(x[0] if table is query_table else x[0].T).ravel() for x in (info[2], info[0]))
    assert (states == 0).any()
    # A block is loaded when the index changes from one step to the next.
    assert 1 + np.count_nonzero(np.diff(loads)) <= np.count_nonzero(states)


@pytest.mark.parametrize("window", [None, 4096])
def test_tables_for_a_million_tokens_are_written_without_looking_at_the_mask(window, monkeypatch):
    monkeypatch.setattr(splash_masks, "visible", None)
    start = time.process_time()
    tables = [whole_row(table, 2**20, 1024, 1024, window) for table in (query_table, key_table)]
    assert time.process_time() - start < 20  # the library evaluates 10^12 pairs
    for info in tables:
        assert info.block_mask.size == 1024 * (1024 if window is None else 5)
        assert info.data_next.max() == 1023


def test_work_is_the_band_or_the_lower_triangle():
    visited = [
        np.count_nonzero(whole_row(query_table, length, 128, 128, 256).block_mask) for length in (4096, 8192, 16384)
    ]
    assert np.diff(visited).tolist() == [32 * 3, 64 * 3]
    assert np.count_nonzero(whole_row(key_table, 4096, 128, 128, None).block_mask) == 32 * 33 / 2


# --- The numbers ---

# Around the edges of blocks and of the window; rows shorter than a block; oblong blocks, as full layers have them.
EDGES = [
    *[(1, None, (128, 128)), (300, 129, (128, 128)), (520, 255, (128, 128))],
    *[(700, 200, (128, 256)), (700, None, (128, 256))],
]


@pytest.mark.parametrize(("length", "window", "blocks"), EDGES, ids=str)
def test_splash_equals_reference_at_the_edges_of_blocks(length, window, blocks):
    segments = pack([length // 3, length - length // 3 - length // 8], length=length)[0] if length > 8 else None
    with splash.interpreted(*blocks):
        check_against_reference(draw(1, length, 2, 1), segments, AttentionSpec(scale=0.5, window=window), "splash")


def test_devices_attend_for_their_rows_and_heads():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    args, segments = draw(4, 200, 4, 2), pack([120, 80], [200], [1, 7, 150], [30, 100], length=200)[0]
    with splash.interpreted(), jax.set_mesh(mesh):
        check_against_reference(args, segments, AttentionSpec(scale=0.5, window=50), "splash")
        jaxpr = jax.make_jaxpr(forward_and_backward(SPEC, "splash"))(*args, segments)
    kernels = [equation for equation, _ in equations(jaxpr) if equation.primitive.name == "pallas_call"]
    assert len(kernels) == 3
    for kernel in kernels:
        shapes = {var.aval.shape for var in kernel.invars}
        assert {(2, 256, 8), (1, 256, 8)} <= shapes  # of one row: two query heads of four, one key head of two


# --- The memory ---


def test_memory_of_the_backward_pass_is_linear():
    def bytes_written(length):
        shapes = [jax.ShapeDtypeStruct((1, length, n, 8), jnp.float32) for n in (2, 1, 1, 2)]
        with splash.interpreted():
            jaxpr = jax.make_jaxpr(forward_and_backward(SPEC, "splash"))(*shapes, None)
        kernels = [equation for equation, _ in equations(jaxpr) if equation.primitive.name == "pallas_call"]
        assert len(kernels) == 3  # forward, dkv, dq: not fused
        sizes = [var.aval.size for kernel in kernels for var in kernel.outvars if length in var.aval.shape]
        assert sizes
        return sum(sizes)

    assert bytes_written(8192) == 2 * bytes_written(4096)


def kernels_that_run(config, mesh):
    """Forward, dq and dkv kernels in the compiled gradient of a model."""
    params, tokens = random_params(config), random_tokens(config, 4, 40)
    with splash.interpreted(), jax.set_mesh(mesh):
        gradient = jax.jit(jax.grad(lambda params: bind(config, params).hidden(tokens).sum()))
        program = gradient.lower(params).compile().as_text()
    # An interpreted kernel is a loop over its grid.
    loops = re.findall(r' while\(.*op_name="[^"]*splash_mha_([a-z]+)[^"/]*/while"', program)
    return [loops.count(kernel) for kernel in ("fwd", "dq", "dkv")]


@pytest.mark.parametrize(("remat", "forward"), [("attention", 2), ("full", 4)])
def test_attention_is_kept_by_name(remat, forward):
    mesh = make_mesh(MeshConfig(data=2, fsdp=1, tensor=2), jax.devices()[:4])
    config = tiny_model(attention="splash", remat=remat, num_layers=2)
    assert kernels_that_run(config, mesh) == [forward, 2, 2]


@pytest.mark.parametrize("window", [None, 16])
def test_blockwise_attention_is_kept_by_name(window):
    x = jnp.ones((1, 600, 2, 8))
    spec = AttentionSpec(scale=1.0, window=window)

    def layer(x):
        return jnp.sin(attend(jnp.sin(x), jnp.cos(x), jnp.tan(x), spec, backend="blockwise"))

    def work(layer):
        return product_flops(jax.grad(lambda x: layer(x).sum()), x)

    policy = jax.checkpoint_policies.save_only_these_names(SAVED)
    assert work(jax.checkpoint(layer, policy=policy)) == work(layer)
    assert work(jax.checkpoint(layer)) == work(layer) + product_flops(layer, x)


# --- The blocks ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [None, 64, NARROW, 4096])
@pytest.mark.parametrize(("head_dim", "itemsize"), [(8, 2), (128, 2), (128, 4), (192, 2), (256, 4)])
def test_blocks_are_powers_of_two_within_the_vector_memory(kind, window, head_dim, itemsize):
    blocks = choose_blocks(kind, window, head_dim, itemsize)
    assert {blocks.queries & (blocks.queries - 1), blocks.keys & (blocks.keys - 1)} == {0}
    assert min(blocks.queries, blocks.keys) >= 128
    row = (256 if head_dim > 128 else 128) * itemsize
    assert blocks.queries * blocks.keys * row <= TABLE[KINDS[kind]].budget
    assert not blocks.sizes().use_fused_bwd_kernel


def test_an_unknown_generation_gets_modest_blocks():
    assert choose_blocks("TPU v99", 4096, 128, 2) == choose_blocks("TPU v4", 4096, 128, 2)


@pytest.mark.parametrize("length", [1, 100, 128, 1000, 1100, 4096, 5000, 8192, 100_000, 131_072])
def test_padding_is_small(length):
    blocks, padding = fit(Blocks(1024, 2048), length)
    padded = length + padding
    assert padded % blocks.queries == padded % blocks.keys == 0
    assert padding < 128 or padding <= length / 8
    if length in (4096, 8192, 131_072):
        assert (blocks, padding) == (Blocks(1024, 2048), 0)


# --- The platform ---


def described(device_kind="TPU v5", shape=(1, 1, 1, 1)):
    """A mesh of devices that are not there."""
    device = AbstractDevice(device_kind=device_kind, num_cores=1, platform="tpu")
    return AbstractMesh(shape, MESH_AXES, (AxisType.Auto,) * 4, abstract_device=device)


def lower_for_tpu(backend, batch, length, heads, kv_heads, dim, window=None, dtype=jnp.bfloat16):
    shapes = [jax.ShapeDtypeStruct((batch, length, n, dim), dtype) for n in (heads, kv_heads, kv_heads, heads)]
    segments = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    function = forward_and_backward(AttentionSpec(scale=0.1, window=window), backend)
    return function.trace(*shapes, segments).lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize("window", [None, 4096])
@pytest.mark.parametrize("dim", [8, 128, 192])
def test_auto_lowers_for_a_described_tpu(window, dim):
    with use_abstract_mesh(described(shape=(2, 2, 1, 2))):
        assert choose("auto", window) == "splash"
        assert lower_for_tpu("auto", 4, 8192, 4, 2, dim, window).count("tpu_custom_call") == 3


def test_auto_takes_blockwise_elsewhere():
    assert choose("auto", None) == "blockwise"
    assert choose("splash", None) == "splash"


def test_splash_is_refused_off_tpu():
    message = r'model.attention = "splash" needs a TPU, and this program is for cpu; use "auto"'
    with pytest.raises(UserError, match=message):
        attend(*draw(1, 4, 2, 1)[:3], SPEC, backend="splash")
    with pytest.raises(UserError, match=message):
        attention.check("splash", "cpu")
    attention.check("splash", "tpu")
    attention.check("auto", "cpu")


@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "message"),
    [
        (3, 4, 2, "queries: its axis 'batch' of size 3 cannot be split over 4 devices"),
        (4, 3, 3, "queries: its axis 'heads' of size 3 cannot be split over 2 devices"),
        (4, 4, 1, "keys: its axis 'kv_heads' of size 1 cannot be split over 2 devices .*mesh.tensor"),
    ],
)
def test_what_cannot_be_split_is_refused(batch, heads, kv_heads, message):
    with use_abstract_mesh(described(shape=(2, 2, 1, 2))), pytest.raises(UserError, match=message):
        lower_for_tpu("splash", batch, 256, heads, kv_heads, 8)


def test_a_table_too_large_for_the_scalar_memory_is_refused():
    lower = partial(lower_for_tpu, "splash", 1, heads=1, kv_heads=1, dim=128)
    with use_abstract_mesh(described()):
        assert lower(length=2**20, window=4096)
        assert lower(length=2**19)
        with pytest.raises(UserError, match=r"sequence_length = 1,048,576: .* 1.5 MiB, .*at most 524,288 tokens"):
            lower(length=2**20)
