"""Training on meshes gives what one device gives, and nothing large is replicated."""

import math

import jax
import pytest

from rnope_jax.config import OptimizerConfig
from rnope_jax.model import describe
from rnope_jax.sharding import RULES
from rnope_jax.training.state import init_state
from rnope_jax.training.step import to_devices
from tests.helpers import assert_close, assert_close_by_name
from tests.training.steps import STEADY, mesh_of, packed_batch, step_config, take_steps, train_step


@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 2, 2)])
def test_three_steps_on_a_mesh_are_those_of_one_device(shape):
    config = step_config(optimizer=STEADY)
    batches = [packed_batch(config, seed) for seed in range(3)]
    one, expected = take_steps(config, mesh_of(), batches)
    mesh = mesh_of(*shape)
    many, actual = take_steps(config, mesh, batches)
    assert_close_by_name(many.params, one.params, 1e-5)
    for a, b in zip(actual, expected, strict=True):
        for name in ("loss", "gradient_norm", "tokens"):
            assert_close(a[name], b[name], 1e-5, name)
    assert train_step(config, 0, mesh)._cache_size() == 1


def parts(mesh: jax.sharding.Mesh, axes: tuple[str | None, ...]) -> int:
    """Into how many parts the rules cut an array with these axes."""
    return math.prod(mesh.shape[a] for axis in axes if axis for a in RULES.get(axis, ()))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizer_state_lies_with_its_parameter(name):
    config, mesh = step_config(optimizer=OptimizerConfig(name=name)), mesh_of(2, 2, 2)
    infos = describe(config.model)
    state = init_state(config, mesh)
    checked = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.optimizer)):
        owner = getattr(path[-1], "key", None)
        if owner not in infos:
            assert leaf.size < 8  # counters and coefficients
            continue
        local = leaf.addressable_shards[0].data.size
        assert local * parts(mesh, infos[owner].axes) == leaf.size, path
        checked.add(owner)
        if infos[owner].is_matrix or owner == "embedding":
            assert parts(mesh, infos[owner].axes) == 4, path  # fsdp x tensor
    assert checked == set(infos)


def test_the_next_state_lies_where_the_last_one_lay():
    config, mesh = step_config(optimizer=STEADY), mesh_of(2, 2, 2)
    state = init_state(config, mesh)
    before = jax.tree.map(lambda leaf: leaf.sharding, state)
    with jax.set_mesh(mesh):
        after, _ = train_step(config, 0, mesh)(state, to_devices(packed_batch(config), mesh))
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        assert a.sharding.is_equivalent_to(b, a.ndim)
