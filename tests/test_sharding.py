"""On any mesh a model computes what it computes on one device, and errors name what does not fit."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rnope_jax.attention.context import zigzag
from rnope_jax.config import MeshConfig
from rnope_jax.errors import UserError
from rnope_jax.model import bind, describe, init, shardings
from rnope_jax.sharding import check_batches, constrain, make_mesh, partition, sharding
from tests.helpers import (
    assert_close,
    assert_close_by_name,
    pack,
    random_params,
    random_tokens,
    tiny_config,
    tiny_model,
)
from tests.test_config import stage

MESHES = [
    *[(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4), (1, 4, 2)],
    *[(1, 4, 2, 1), (1, 1, 4, 2), (2, 2, 2, 1), (1, 2, 2, 2), (2, 1, 4, 1), (1, 1, 2, 4)],
]

# Two scanned periods, a remainder and a window, with every axis divisible by what the meshes need.
CONFIG = tiny_model(num_heads=8, num_kv_heads=4, remat="full")
LENGTH = 24


def mesh_of(sizes, devices=None):
    """A mesh of data x fsdp x tensor, or of data x fsdp x context x tensor."""
    names = ("data", "fsdp", "context", "tensor") if len(sizes) == 4 else ("data", "fsdp", "tensor")
    return make_mesh(MeshConfig(**dict(zip(names, sizes, strict=True))), devices)


def batch():
    tokens = random_tokens(CONFIG, 8, LENGTH + 1)
    documents = [(24,), (5, 19), (1, 1, 22), (12, 12), (20,), (23, 1), (3, 4, 5, 6), (11, 13)]
    segments, positions = pack(*documents, length=LENGTH)
    return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "segments": segments, "positions": positions}


def loss(params, batch, config=CONFIG):
    logits = bind(config, params)(batch["tokens"], positions=batch["positions"], segment_ids=batch["segments"])
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["targets"][..., None], -1)[..., 0]
    return -(chosen * (batch["segments"] > 0)).mean()


@pytest.fixture(scope="module")
def single():
    """Loss and gradients on one device."""
    return jax.jit(jax.value_and_grad(loss))(random_params(CONFIG), batch())


# Chunks of the feed-forward layers are compiled apart on a mesh; 5 divides no part of a row.
@pytest.mark.parametrize(
    ("sizes", "other"),
    [
        *((s, {}) for s in MESHES),
        ((2, 2, 2), {"mlp_chunk": 5}),
        ((1, 2, 2, 2), {"mlp_chunk": 5}),
        ((1, 2, 2, 2), {"remat": "sequential"}),
    ],
    ids=str,
)
def test_loss_and_gradients_equal_those_of_one_device(sizes, other, single):
    mesh = mesh_of(sizes)
    loss_of = partial(loss, config=replace(CONFIG, **other))
    places = shardings(CONFIG, mesh)
    rows = sharding(mesh, ("batch", "sequence"))
    order = zigzag(LENGTH, mesh.shape["context"])
    with jax.set_mesh(mesh):
        params = jax.device_put(random_params(CONFIG), places)
        data = jax.device_put({name: x[:, order] for name, x in batch().items()}, rows)
        step = jax.jit(
            jax.value_and_grad(loss_of),
            in_shardings=(places, dict.fromkeys(data, rows)),
            out_shardings=(NamedSharding(mesh, PartitionSpec()), places),
        )
        value, gradients = step(params, data)
    assert len(rows.device_set) == 8
    assert_close(value, single[0], 1e-5)
    assert_close_by_name(gradients, single[1], 1e-5)


SPLIT_BY = {"vocab": "tensor", "heads": "tensor", "kv_heads": "tensor", "mlp": "tensor"}


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_parameters_are_split_as_the_rules_say(sizes):
    mesh = mesh_of(sizes)
    for name, place in shardings(CONFIG, mesh).items():
        info = describe(CONFIG)[name]
        whole = mesh.shape["fsdp"] * mesh.shape["context"]
        sizes = {"embed": whole, **{axis: mesh.shape[by] for axis, by in SPLIT_BY.items()}}
        divisors = [sizes.get(axis, 1) for axis in info.axes]
        expected = tuple(size // parts for size, parts in zip(info.shape, divisors, strict=True))
        assert place.shard_shape(info.shape) == expected, name
        # No matrix is whole on any device when the mesh has anything to split it over.
        if info.is_matrix or name == "embedding":
            assert math.prod(info.shape) == math.prod(expected) * whole * mesh.shape["tensor"], name


def test_init_on_a_mesh_makes_the_parameters_of_one_device_in_place():
    mesh = mesh_of((1, 4, 2))
    config = tiny_model(num_layers=1, num_kv_heads=2)
    places = shardings(config, mesh)
    params = jax.jit(lambda: init(config, 3), out_shardings=places)()
    expected = jax.jit(lambda: init(config, 3))()
    for name, value in params.items():
        assert value.sharding.is_equivalent_to(places[name], value.ndim), name
        assert (value == expected[name]).all(), name


def test_constrain_outside_a_mesh_is_the_identity():
    x = jnp.arange(6.0).reshape(2, 3)
    assert constrain(x, "batch", "mlp") is x


def test_constrain_splits_an_activation():
    with jax.set_mesh(mesh_of((2, 2, 2))):
        y = jax.jit(lambda x: constrain(x * 1, "batch", None, "mlp"))(jnp.ones((8, 3, 4)))
    assert y.sharding.shard_shape(y.shape) == (2, 3, 2)


def test_unlisted_and_unnamed_axes_are_not_split():
    assert partition(("layers", None, "embed")) == PartitionSpec(None, None, ("fsdp", "context"))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((1, -1, 1), (1, 8, 1, 1)), ((2, -1, 2), (2, 2, 1, 2)), ((-1, 4, 1), (2, 4, 1, 1)), ((1, 2, -1, 1), (1, 2, 4, 1))],
)
def test_an_open_axis_takes_the_devices_that_are_left(sizes, expected):
    assert tuple(mesh_of(sizes).shape.values()) == expected


def test_a_mesh_may_be_made_of_some_devices():
    assert mesh_of((1, -1, 1), jax.devices()[:2]).devices.size == 2


@pytest.mark.parametrize("sizes", [(2, 2, 1), (3, -1, 1), (4, 4, 1), (16, -1, 1)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
    with pytest.raises(UserError, match=rf"mesh\.data = {sizes[0]}, mesh\.fsdp = {sizes[1]}.*number of devices, 8"):
        mesh_of(sizes)


@pytest.mark.parametrize(
    ("changes", "sizes", "message"),
    [
        (
            {"num_kv_heads": 2},
            (1, 2, 4),
            r"periods\.0\.attention\.key: its axis 'kv_heads' of size 2 .* 4 .*mesh\.tensor",
        ),
        ({"d_model": 12}, (1, 8, 1), r"its axis 'embed' of size 12 cannot be split over 8 devices .*mesh\.fsdp"),
        ({"vocab_size": 63}, (1, 4, 2), r"embedding: its axis 'vocab' of size 63 .* 2 devices .*mesh\.tensor"),
        ({"d_ff": 25}, (1, 4, 2), r"mlp\.(gate|up|down): its axis 'mlp' of size 25 .*mesh\.tensor"),
    ],
)
def test_an_axis_that_cannot_be_split_is_named(changes, sizes, message):
    with pytest.raises(UserError, match=message):
        shardings(tiny_model(**{"num_heads": 8, "num_kv_heads": 4, **changes}), mesh_of(sizes))


def test_batches_must_divide_over_devices_and_micro_batches():
    mesh = mesh_of((2, 2, 2))
    check_batches(tiny_config(stages=(stage(batch_size=8, accumulation=2),)), mesh)
    with pytest.raises(
        UserError, match=r"stages\[1\]\.batch_size = 12: .* 8 .*accumulation = 2\); for example 8 or 16"
    ):
        check_batches(tiny_config(stages=(stage(), stage(name="b", batch_size=12, accumulation=2))), mesh)
    with pytest.raises(UserError, match=r"stages\[0\]\.batch_size = 2: .*for example 4$"):
        check_batches(tiny_config(stages=(stage(batch_size=2),)), mesh)
