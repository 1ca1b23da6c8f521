"""Which device sits where in a mesh, on pods that exist only as coordinates."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from rnope_jax.config import MeshConfig
from rnope_jax.errors import UserError
from rnope_jax.sharding import make_mesh, splits_torus


@dataclass(frozen=True)
class Chip:
    """As much of a TPU as the arrangement of a mesh looks at."""

    id: int
    coords: tuple[int, int, int]
    slice_index: int
    core_on_chip: int = 0
    process_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5"


def pod(*shape, slices=1):
    places = itertools.product(range(slices), itertools.product(*map(range, shape)))
    return [Chip(number, coords, slice_index) for number, (slice_index, coords) in enumerate(places)]


def along(mesh, axis):
    """Coordinates of every line of devices along a mesh axis [lines, devices, 3]."""
    lines = np.moveaxis(mesh.devices, mesh.axis_names.index(axis), -1).reshape(-1, mesh.shape[axis])
    return np.array([[device.coords for device in line] for line in lines])


def dimensions(places):
    """Along which dimensions of the torus a line extends."""
    return {d for d in range(3) if len(set(places[:, d])) > 1}


def test_axes_take_whole_dimensions_where_they_can():
    mesh = make_mesh(MeshConfig(context=4), pod(4, 4, 4))
    assert not splits_torus(mesh)
    assert {len(dimensions(line)) for line in along(mesh, "context")} == {1}
    assert {len(dimensions(line)) for line in along(mesh, "fsdp")} == {2}


@pytest.mark.parametrize("sizes", [{"context": 8}, {"context": 2}, {"context": 8, "tensor": 2}, {"tensor": 32}])
def test_axes_that_share_a_dimension_go_through_it_in_order(sizes):
    mesh = make_mesh(MeshConfig(**sizes), pod(4, 4, 4))
    assert splits_torus(mesh)
    assert [device.coords for device in mesh.devices.flat] == sorted(device.coords for device in pod(4, 4, 4))


@pytest.mark.parametrize("context", [4, 8])
def test_only_replicas_talk_between_slices(context):
    mesh = make_mesh(MeshConfig(data=4, context=context), pod(4, 4, 4, slices=2))
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert [set(replica.flat) for replica in slices] == [{0}, {0}, {1}, {1}]
    assert len(set(mesh.devices.flat)) == 128
    assert splits_torus(mesh)  # two replicas in a slice of 4x4x4


def test_replicas_must_fill_the_slices():
    with pytest.raises(UserError, match=r"mesh\.data = 3: must be a multiple of the number of slices, 2"):
        make_mesh(MeshConfig(data=3, fsdp=2), pod(3, 1, 1, slices=2))
