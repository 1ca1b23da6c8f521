"""Topologies by name, errors that lead to a right one, and how fast devices of a group can talk."""

from types import SimpleNamespace

import numpy as np
import pytest

from rnope_jax.errors import UserError
from rnope_jax.planning import topology as topologies
from rnope_jax.planning.chips import CHIPS
from rnope_jax.planning.network import Network
from rnope_jax.planning.topology import parse


def test_a_name_gives_chips_and_devices():
    topology = parse("v5p:4x4x8")
    assert (topology.chip.name, topology.shape, topology.chips, topology.devices) == ("v5p", (4, 4, 8), 128, 128)
    assert str(topology) == "v5p:4x4x8"
    assert parse("v6e:16x16").rings == (True, True)
    assert parse("v5e:8x8").rings == (False, False)
    assert parse("v5p:2x4x4").rings == (False, True, True)
    assert parse("7x:2x2x1").devices == 8  # two per chip
    several = parse("V5LitePod:4x8", slices=2)
    assert (str(several), several.chips) == ("2 slices of v5e:4x8", 64)


@pytest.mark.parametrize(
    ("name", "slices", "hints"),
    [
        ("v5q:4x4x4", 1, ["no TPU 'v5q'", "v5p", "v6e"]),
        ("h100:8", 1, ["no TPU 'h100'", "v4, v5e, v5p, v6e or 7x"]),
        ("v5p", 1, ["GENERATION:SIZES", "v5p:4x4x4"]),
        ("v5p:4xfour", 1, ["GENERATION:SIZES"]),
        ("v5p:0x4x4", 1, ["GENERATION:SIZES"]),
        ("v5p:8x8", 1, ["3 dimensions, not 2", "4x4x4"]),
        ("v5e:4x4x4", 1, ["2 dimensions, not 3", "8x8"]),
        ("v5p:4x4x6", 1, ["no v5p slice of this shape", "4x4x4", "4x4x8"]),
        ("v6e:32x32", 1, ["no v6e slice of this shape", "16x16"]),
        ("v5p:4x4x4", 0, ["--slices 0"]),
    ],
)
def test_errors_lead_to_a_topology_that_exists(name, slices, hints):
    with pytest.raises(UserError) as error:
        parse(name, slices)
    for hint in hints:
        assert hint in str(error.value)


def test_without_the_compiler_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(topologies, "available", lambda: False)
    with pytest.raises(UserError, match=r"libtpu.*pip install"):
        topologies.devices(parse("v5e:2x2"))


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_the_facts_of_a_chip_agree_with_each_other(chip):
    assert 0.9 * chip.hbm < chip.usable_hbm < chip.hbm
    assert 150 < chip.flops / chip.hbm_bandwidth < 600  # FLOPs per byte: as chips for training are
    for shape in topologies.near_shapes(chip, 64):
        assert parse(f"{chip.name}:{'x'.join(map(str, shape))}").chip is chip


def network(name: str, slices: int = 1) -> Network:
    """Devices in the order of their coordinates."""
    topology = parse(name, slices)
    shape = (*topology.shape, 1)[:3]
    places = [
        SimpleNamespace(coords=coords, slice_index=index) for index in range(slices) for coords in np.ndindex(*shape)
    ]
    return Network(topology, places)


def test_a_group_uses_the_links_of_the_dimensions_that_it_extends_over():
    link = CHIPS["v5p"].link_bandwidth
    cube = network("v5p:4x4x4")
    places = np.arange(64).reshape(4, 4, 4)
    assert cube.bandwidth(places.reshape(1, 64)) == 6 * link  # three closed rings
    assert cube.bandwidth(places.reshape(16, 4)) == 2 * link  # one
    assert cube.bandwidth(places[:, :, :2].reshape(16, 2)) == link  # half of one: an open line
    assert network("v5e:8x8").bandwidth(np.arange(64)[None]) == 2 * CHIPS["v5e"].link_bandwidth  # no rings


def test_the_network_between_slices_is_the_bottleneck_of_groups_that_span_them():
    both = network("v5p:2x2x1", slices=2)
    across, within = np.array([[0, 4], [1, 5]]), np.array([[0, 1, 2, 3], [4, 5, 6, 7]])
    assert both.crosses_slices(across)
    assert not both.crosses_slices(within)
    assert both.bandwidth(across) == CHIPS["v5p"].dcn_bandwidth
