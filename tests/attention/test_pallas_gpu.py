"""The GPU kernels: they visit what the mask reaches, compute what the definition says, and lower for a GPU.

Numbers come from the interpreter; what compiles them for a GPU is in test_gpu_compiler.py.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

from rnope_jax import attention
from rnope_jax.attention import SAVED, AttentionSpec, attend, choose, pallas_gpu
from rnope_jax.attention.pallas_gpu_tiles import SMALLEST, WIDTHS, Tiles, choose_tiles, generation
from rnope_jax.attention.pallas_gpu_visits import by_key, by_query
from rnope_jax.attention.spec import visible
from rnope_jax.config import MeshConfig
from rnope_jax.errors import UserError
from rnope_jax.sharding import MESH_AXES, make_mesh
from tests.attention.comparison import check_against_reference, draw, forward_and_backward
from tests.helpers import equations, pack

SPEC = AttentionSpec(scale=0.5, window=None)
H100 = "NVIDIA H100 80GB HBM3"


def kernels_of(function, *args):
    """The kernels in a trace, by name."""
    jaxpr = jax.make_jaxpr(function)(*args)
    return [equation for equation, _ in equations(jaxpr) if equation.primitive.name == "pallas_call"]


# --- What is visited ---

LENGTH = 256
#: One document; uneven ones, of one token too; padding behind them; documents that come back, as no packing makes them.
ROWS = {
    "one": np.ones(LENGTH, np.int32),
    "uneven": np.repeat([1, 2, 3, 4], [70, 1, 90, 95]).astype(np.int32),
    "padded": np.repeat([1, 2, 0], [70, 126, 60]).astype(np.int32),
    "unordered": np.random.default_rng(0).integers(1, 4, 32).repeat(8).astype(np.int32),
}
WINDOWS = [None, 1, 17, 50, 128]


def pairs_by_tile(mask, tiles):
    """Which pairs of each tile are in a mask [query tiles, key tiles, pairs]."""
    q, k = (size // edge for size, edge in zip(mask.shape, (tiles.queries, tiles.keys), strict=True))
    return mask.reshape(q, tiles.queries, k, tiles.keys).swapaxes(1, 2).reshape(q, k, -1)


def listed(table, others):
    """Which tiles a table visits, and which of them it does not mask [n, others]."""
    first, whole, edge, last = (np.asarray(table)[:, part, None] for part in range(4))
    assert ((first <= whole) & (whole <= edge) & (edge <= last)).all()
    tile = np.arange(others)
    return (tile >= first) & (tile < last), (tile >= whole) & (tile < edge)


# The whole row; two chunks of it, the second the last, as zigzag order has them; places that begin just before, on and
# just after the edges of tiles of keys, as behind the keys of a neighbour.
PLACES = {
    "row": np.arange(LENGTH),
    "chunks": np.concatenate([np.arange(64, 128), np.arange(192, 256)]),
    "askew": np.concatenate([np.arange(start, start + 32) for start in (1, 46, 79, 113, 160, 222)]),
}


#: Wide tiles at every place, tall ones at one.
TILED = [*[(Tiles(32, 16, 4, 1), places) for places in PLACES], (Tiles(16, 32, 4, 1), "askew")]


@pytest.mark.parametrize(("tiles", "places"), TILED, ids=str)
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("window", WINDOWS)
def test_every_visible_pair_is_visited_and_no_other_is_left_unmasked(window, row, tiles, places):
    index, key_segments = PLACES[places], ROWS[row]
    segments = key_segments[index]
    band = np.asarray(visible(index[:, None], np.arange(LENGTH)[None], window))
    seen = pairs_by_tile(band & (segments[:, None] == key_segments[None]), tiles)
    # What can be told from the band and from the documents of two tiles, each for itself.
    needed = pairs_by_tile(band, tiles).any(-1) & pairs_by_tile(segments[:, None] == key_segments[None], tiles).any(-1)
    ids = None if row == "one" else [jnp.asarray(x)[None] for x in (segments, key_segments)]
    starts = jnp.asarray(index[:: tiles.queries])
    for make, axis in ((by_query, 1), (by_key, 0)):
        table = make(starts, tiles, LENGTH, window, *(ids or ()))[0]
        visited, unmasked = listed(table, seen.shape[axis])
        visited, unmasked = (visited, unmasked) if axis else (visited.T, unmasked.T)
        assert not (seen.any(-1) & ~visited).any()
        assert not (unmasked & ~seen.all(-1)).any()
        if row in ("one", "uneven"):
            np.testing.assert_array_equal(visited, needed)


def work(length, window, documents=1):
    """Tiles that are visited in the forward and in the dkv kernel, and how many of them are masked."""
    tiles, segments = Tiles(16, 8, 8, 2), None
    if documents > 1:
        segments = jnp.repeat(jnp.arange(documents), length // documents)[None]
    counts = []
    for make in (by_query, by_key):
        first, whole, edge, last = np.asarray(
            make(jnp.arange(0, length, tiles.queries), tiles, length, window, segments, segments)
        )[0].T
        counts.append((int((last - first).sum()), int((last - first - (edge - whole)).sum())))
    assert counts[0] == counts[1]
    return counts[0]


def test_work_is_the_band_or_the_lower_triangle_in_both_passes():
    tile = 16 * 8
    short, longer, longest = (work(length, 512)[0] for length in (1024, 2048, 4096))
    assert longest - longer == 2 * (longer - short)  # linear beyond the first window
    assert longest * tile < 1.04 * 4096 * 512
    assert work(2048, None)[0] * tile < 1.02 * 2048**2 / 2


def test_masks_are_computed_at_the_edges_only():
    # Of 16 queries: two tiles on the diagonal, three at the far edge of the window.
    assert work(4096, 512)[1] <= 5 * 4096 / 16
    assert work(2048, None)[1] == 2 * 2048 / 16
    assert work(4096, 512, documents=2)[1] <= 5 * 4096 / 16


@pytest.mark.parametrize("window", [None, 100])
def test_other_documents_are_skipped(window):
    assert work(8 * 256, window, documents=8)[0] == 8 * work(256, window)[0]


# --- The numbers ---

# Rows shorter than a tile, of a length that no tile divides; windows around the edges of tiles; oblong tiles.
EDGES = [(1, None, (64, 32)), (300, 97, (64, 32)), (150, 33, (32, 64)), (130, None, (16, 128))]


@pytest.mark.parametrize(("length", "window", "tiles"), EDGES, ids=str)
def test_kernels_equal_the_reference_at_the_edges_of_tiles(length, window, tiles):
    segments = pack([length // 3, length - length // 3 - length // 8], length=length)[0] if length > 8 else None
    with pallas_gpu.interpreted(*tiles):
        check_against_reference(draw(1, length, 2, 1), segments, AttentionSpec(scale=0.5, window=window), "pallas_gpu")


def test_documents_that_come_back_are_seen_again():
    segments = jnp.asarray(ROWS["unordered"])[None]
    with pallas_gpu.interpreted(32, 32):
        check_against_reference(draw(1, LENGTH, 2, 1), segments, SPEC, "pallas_gpu")


def test_padding_is_met_by_the_last_document_alone(monkeypatch):
    def forward(program, rows):
        given.append(rows)
        return rows.q, rows.q[..., 0].swapaxes(1, 2)

    given, tiles = [], Tiles(64, 32, 4, 1)
    monkeypatch.setattr(pallas_gpu.kernels, "forward", forward)
    segments = pack([100, 70], [60, 1, 109], length=170)[0]  # padded to 192
    with pallas_gpu.interpreted(tiles.queries, tiles.keys):
        attend(*draw(2, 170, 2, 1)[:3], SPEC, segment_ids=segments, backend="pallas_gpu")
    [rows] = given
    places = rows.places[:: tiles.queries]
    queries, keys = (make(places, tiles, 192, None, *rows[4:]) for make in (by_query, by_key))
    # The last tile of queries begins at 128, in the last document, which begins at 100 and at 61: in the tiles of keys
    # 3 and 1. The last tile of keys begins at 160, of which queries from 128 on know.
    assert queries[:, -1, 0].tolist() == [3, 1]
    assert keys[:, -1].tolist() == [[2, 3, 3, 3]] * 2


def test_devices_attend_for_their_rows_and_heads():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    args, segments = draw(4, 200, 4, 2), pack([120, 80], [200], [1, 7, 150], [30, 100], length=200)[0]
    with pallas_gpu.interpreted(), jax.set_mesh(mesh):
        check_against_reference(args, segments, AttentionSpec(scale=0.5, window=50), "pallas_gpu")
        kernels = kernels_of(forward_and_backward(SPEC, "pallas_gpu"), *args, segments)
    assert len(kernels) == 3
    for kernel in kernels:
        shapes = {var.aval.shape for var in kernel.invars}
        assert {(1, 256, 2, 64), (1, 256, 1, 64)} <= shapes  # one row: two query heads of four, one key head of two


# --- The memory ---


def test_memory_of_the_backward_pass_is_linear():
    def bytes_written(length):
        shapes = [jax.ShapeDtypeStruct((1, length, n, 64), jnp.bfloat16) for n in (2, 1, 1, 2)]
        ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
        with pallas_gpu.interpreted():
            kernels = kernels_of(forward_and_backward(SPEC, "pallas_gpu"), *shapes, ids)
        return sum(var.aval.size * var.aval.dtype.itemsize for kernel in kernels for var in kernel.outvars)

    # Output, dq, dk, dv in the type of the inputs, and a number per query: no partial sums.
    assert bytes_written(4096) == 4096 * (64 * 2 * (2 + 2 + 1 + 1) + 4 * 2)


def test_output_and_log_sum_exp_are_kept_by_name():
    x = jnp.ones((1, 128, 2, 64))

    def count(policy):
        def layer(x):
            return jnp.sin(attend(jnp.sin(x), jnp.cos(x), jnp.tan(x), SPEC, backend="pallas_gpu"))

        with pallas_gpu.interpreted():
            gradient = jax.make_jaxpr(jax.grad(lambda x: jax.checkpoint(layer, policy=policy)(x).sum()))(x)
        return sum(len(needed_kernels(jaxpr)) for jaxpr in [gradient.jaxpr, *inner_jaxprs(gradient)])

    assert count(jax.checkpoint_policies.save_only_these_names(SAVED)) == 3
    assert count(None) == 4


def inner_jaxprs(jaxpr):
    """Every jaxpr inside one, without what is inside kernels."""
    for equation, _ in equations(jaxpr):
        for value in equation.params.values() if equation.primitive.name != "pallas_call" else ():
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                yield getattr(value, "jaxpr", value)


def needed_kernels(jaxpr):
    """Kernels of a jaxpr whose results are used; XLA drops the others."""
    used = {id(var) for equation in jaxpr.eqns for var in equation.invars} | {id(var) for var in jaxpr.outvars}
    kernels = [equation for equation in jaxpr.eqns if equation.primitive.name == "pallas_call"]
    return [kernel for kernel in kernels if any(id(var) in used for var in kernel.outvars)]


# --- The tiles ---


@pytest.mark.parametrize("kind", [H100, "NVIDIA A100-SXM4-80GB", "NVIDIA L4"])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("dim", [8, 64, 80, 128, 256])
def test_tiles_are_powers_of_two_that_kernels_can_share(kind, itemsize, dim):
    kernels = choose_tiles(kind, dim, itemsize)
    for tiles in (kernels.forward, kernels.dq, kernels.dkv):
        for edge in (tiles.queries, tiles.keys):
            assert edge & (edge - 1) == 0
            assert edge >= SMALLEST
        assert kernels.queries % tiles.queries == kernels.keys % tiles.keys == 0


def test_tiles_that_divide_a_chunk():
    kernels = choose_tiles(H100, 128, 2).dividing(96)
    assert (kernels.forward.queries, kernels.dq.queries, kernels.dkv.queries) == (32, 32, 32)
    assert choose_tiles(H100, 128, 2).dividing(4096) == choose_tiles(H100, 128, 2)


def test_generations_are_known_by_the_names_of_devices():
    names = [H100, "NVIDIA H200", "NVIDIA GH200 480GB", "NVIDIA A100-SXM4-80GB", "NVIDIA A10", "NVIDIA B200"]
    assert [generation(name) for name in names] == ["hopper", "hopper", "hopper", "ampere", "other", "other"]


# --- The platform ---


def described(kind=H100, shape=(1, 1, 1, 1), platform="gpu"):
    """A mesh of devices that are not there."""
    device = AbstractDevice(device_kind=kind, num_cores=None, platform=platform)
    return AbstractMesh(shape, MESH_AXES, (AxisType.Auto,) * 4, abstract_device=device)


def lower_for_gpu(backend, batch, length, heads, kv_heads, dim, window=None, dtype=jnp.bfloat16, packed=True):
    shapes = [jax.ShapeDtypeStruct((batch, length, n, dim), dtype) for n in (heads, kv_heads, kv_heads, heads)]
    segments = jax.ShapeDtypeStruct((batch, length), jnp.int32) if packed else None
    function = forward_and_backward(AttentionSpec(scale=0.1, window=window), backend)
    return function.trace(*shapes, segments).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    ("dim", "window", "packed", "dtype"),
    [
        *[(128, None, True, jnp.bfloat16), (128, 4096, True, jnp.bfloat16), (64, 512, False, jnp.bfloat16)],
        *[(256, 4096, True, jnp.bfloat16), (80, None, True, jnp.float32), (128, 4096, False, jnp.float32)],
    ],
)
def test_kernels_lower_for_a_described_gpu(dim, window, packed, dtype):
    with use_abstract_mesh(described(shape=(2, 2, 1, 2))):
        program = lower_for_gpu("pallas_gpu", 4, 8200, 4, 2, dim, window, dtype, packed)
    assert program.count("__gpu$xla.gpu.triton") == 3
    unit = choose_tiles(H100, dim, jnp.dtype(dtype).itemsize).queries
    length, width = -(-8200 // unit) * unit, next(width for width in WIDTHS if dim <= width)
    assert f"tensor<1x{length}x2x{width}x" in program


def test_auto_is_chosen_by_device_and_documents():
    with use_abstract_mesh(described()):
        assert {choose("auto", window) for window in (None, 4096)} == {"pallas_gpu"}
        assert choose("auto", 4096, packed=False) == "cudnn"
        assert choose("auto", 4096, packed=False, dtype="float32") == "pallas_gpu"
        assert choose("auto", None, packed=False, head_dim=260) == "pallas_gpu"
        assert lower_for_gpu("auto", 1, 512, 4, 2, 128, 64).count("__gpu$xla.gpu.triton") == 3
    for other in ("Tesla T4", "AMD Instinct MI300X"):
        with use_abstract_mesh(described(other)):
            assert choose("auto", 4096) == "blockwise"


def test_kernels_are_refused_off_gpu():
    message = r'model.attention = "pallas_gpu" needs an NVIDIA GPU, Ampere or newer, .* for cpu .*; use "auto"'
    with pytest.raises(UserError, match=message):
        attend(*draw(1, 4, 2, 1)[:3], SPEC, backend="pallas_gpu")
    with pytest.raises(UserError, match=message):
        attention.check("pallas_gpu", "cpu", "cpu")
    with pytest.raises(UserError, match="Tesla V100"):
        attention.check("pallas_gpu", "gpu", "Tesla V100-SXM2-16GB")
    attention.check("pallas_gpu", "gpu", H100)


def test_heads_that_are_too_wide_are_refused():
    message = r"model.head_dim = 512: .* up to 256 channels"
    with use_abstract_mesh(described()), pytest.raises(UserError, match=message):
        lower_for_gpu("pallas_gpu", 1, 256, 1, 1, 512)
    with pytest.raises(UserError, match=message):
        attention.check("pallas_gpu", "gpu", H100, head_dim=512)


@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "message"),
    [
        (3, 4, 2, "pallas_gpu attention: queries: its axis 'batch' of size 3 cannot be split over 4 devices"),
        (4, 4, 1, r"pallas_gpu attention: keys: its axis 'kv_heads' of size 1 cannot be split .*mesh.tensor"),
    ],
)
def test_what_cannot_be_split_is_refused(batch, heads, kv_heads, message):
    with use_abstract_mesh(described(shape=(2, 2, 1, 2))), pytest.raises(UserError, match=message):
        lower_for_gpu("pallas_gpu", batch, 256, heads, kv_heads, 8)


def test_a_jax_without_the_compiler_of_the_kernels_is_named(monkeypatch):
    monkeypatch.setattr(attention, "import_module", partial(_fail, ImportError("cannot import name 'triton'")))
    with pytest.raises(UserError, match=r"needs jax.experimental.pallas.triton, not found in jax \d"):
        attention.check("pallas_gpu", "gpu", H100)


def _fail(error, *_):
    raise error
