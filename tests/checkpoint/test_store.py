"""Checkpoints as a store of states; whole runs are in training/test_resume.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rnope_jax.checkpoint import saved_steps, saved_weights, store, wait_for_all
from rnope_jax.errors import LostProcessError, UserError
from tests.checkpoint.states import ABOUT, abstract, assert_same, state
from tests.training.steps import mesh_of


def test_a_state_comes_back_bit_for_bit_from_the_newest(opened):
    first = opened()
    for step in (1, 2):
        first.save(step, state(step), {"step": step})
    first.close()
    step, restored = opened().restore(abstract(state()))
    assert step == 2
    assert_same(restored, state(2))


def test_nothing_is_restored_where_there_is_nothing(opened):
    assert opened().restore(abstract(state())) is None


def test_the_saved_state_is_that_of_the_call(opened):
    """The arrays may be given to the next step, which overwrites them, as soon as `save` returns."""
    consume = jax.jit(lambda x: jax.tree.map(lambda y: y * 0 - 1, x), donate_argnums=0)
    checkpoints, value = opened(), jax.tree.map(jnp.copy, state(3))
    checkpoints.save(3, value, ABOUT)
    consume(value)
    checkpoints.wait()
    assert_same(checkpoints.restore(abstract(state()))[1], state(3))


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"keep": 1}, [6]),
        ({"keep": 2}, [5, 6]),
        ({"keep": 1, "keep_every": 2}, [2, 4, 6]),
        ({"keep": 2, "keep_every": 4}, [4, 5, 6]),
    ],
)
def test_the_newest_and_the_chosen_are_kept(opened, settings, kept):
    checkpoints = opened(**settings)
    for step in range(1, 7):
        checkpoints.save(step, state(step), ABOUT)
    checkpoints.wait()
    assert checkpoints.steps() == kept


def test_a_step_is_saved_once(opened):
    checkpoints = opened()
    checkpoints.save(1, state(1), ABOUT)
    checkpoints.wait()
    checkpoints.save(1, state(2), ABOUT)
    checkpoints.wait()
    assert_same(checkpoints.restore(abstract(state()))[1], state(1))


def test_an_interrupted_save_is_no_checkpoint_and_is_cleared_away(opened, tmp_path):
    first = opened()
    first.save(1, state(1), ABOUT)
    first.close()
    leftover = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    (leftover / "state").mkdir(parents=True)
    again = opened()
    assert again.steps() == [1]
    again.save(2, state(2), ABOUT)
    again.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]


def test_a_state_is_restored_onto_any_mesh(opened):
    one = opened()
    one.save(1, state(1), ABOUT)
    one.wait()
    mesh = mesh_of(2, 2, 2)
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec("fsdp") if x.ndim else PartitionSpec())
        ),
        abstract(state()),
    )
    restored = one.restore(placed)[1]
    assert_same(restored, state(1))
    assert restored["params"]["a.b"].sharding.spec == PartitionSpec("fsdp")
    one.save(2, restored, ABOUT)
    one.wait()
    assert_same(one.restore(abstract(state()))[1], state(1))


def test_a_damaged_checkpoint_is_set_aside_and_its_step_may_be_saved_again(opened, tmp_path):
    checkpoints, said = opened(), []
    for step in (1, 2):
        checkpoints.save(step, state(step), ABOUT)
    checkpoints.wait()
    (tmp_path / "checkpoints" / "2" / "state" / "_METADATA").unlink()
    step, restored = checkpoints.restore(abstract(state()), said.append)
    assert step == 1
    assert_same(restored, state(1))
    assert len(said) == 1
    assert said[0].startswith("checkpoint 2 is damaged (state/_METADATA is missing)")
    assert said[0].endswith("set aside as damaged-2")
    assert "\n" not in said[0]
    checkpoints.save(2, state(5), ABOUT)
    checkpoints.wait()
    assert_same(checkpoints.restore(abstract(state()))[1], state(5))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2", "damaged-2"]


def test_a_state_of_another_shape_is_not_taken(opened):
    checkpoints = opened()
    checkpoints.save(1, state(1), ABOUT)
    checkpoints.wait()
    other = abstract(state())
    del other["params"]["a.b"]
    with pytest.raises(UserError, match=r"checkpoint 1 in .*: params\.a\.b is float32\[8, 4\] there and absent here"):
        checkpoints.restore(other)
    other = abstract(state())
    other["params"]["a.b"] = jax.ShapeDtypeStruct((8, 4), jnp.bfloat16)  # Orbax would convert it without a word
    with pytest.raises(UserError, match=r"params\.a\.b is float32\[8, 4\] there and bfloat16\[8, 4\] here"):
        checkpoints.restore(other)
    assert checkpoints.steps() == [1]


def test_parameters_are_loaded_without_the_optimizer(opened, tmp_path):
    checkpoints = opened()
    checkpoints.save(7, state(7), ABOUT)
    checkpoints.wait()
    weights = saved_weights(tmp_path / "checkpoints")
    assert weights.step == 7
    expected = state(7)["params"]
    assert_same({name: weights.read(name) for name in expected}, expected)


def test_a_piece_of_a_parameter_is_read_for_itself(opened, tmp_path):
    """Layers that are stacked for the scan lie apart on disk, on one device too."""
    stack = jnp.arange(5 * 6 * 7, dtype=jnp.float32).reshape(5, 6, 7)
    checkpoints = opened()
    checkpoints.save(1, {"params": {"periods.0.x": stack, "y": stack}}, ABOUT)
    checkpoints.wait()
    weights = saved_weights(tmp_path / "checkpoints")
    np.testing.assert_array_equal(weights.read("periods.0.x", (slice(2, 3), slice(1, 4))), stack[2:3, 1:4])
    assert weights.shape("y") == (5, 6, 7)
    chunks = [weights._array(name).chunk_layout.read_chunk.shape for name in ("periods.0.x", "y")]
    assert chunks == [(1, 6, 7), (5, 6, 7)]


def test_weights_of_a_chosen_step(opened, tmp_path):
    checkpoints = opened()
    for step in (1, 2):
        checkpoints.save(step, state(step), ABOUT)
    checkpoints.wait()
    directory = tmp_path / "checkpoints"
    assert saved_steps(directory) == [1, 2]
    np.testing.assert_array_equal(saved_weights(directory, 1).read("a.b"), state(1)["params"]["a.b"])
    with pytest.raises(UserError, match=r"step = 3: .* holds checkpoints of the steps \[1, 2\]"):
        saved_weights(directory, 3)
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        saved_weights(tmp_path / "nothing")


def test_weights_that_cannot_be_read_are_told_in_one_line(opened, tmp_path):
    checkpoints = opened()
    checkpoints.save(1, state(1), ABOUT)
    checkpoints.wait()
    directory = tmp_path / "checkpoints"
    with pytest.raises(UserError, match=r"checkpoint 1 in .* cannot be read") as caught:
        saved_weights(directory).read("absent")
    assert "\n" not in str(caught.value)


def test_failing_to_save_is_told_and_spares_earlier_checkpoints(opened, monkeypatch):
    checkpoints = opened()
    checkpoints.save(1, state(1), ABOUT)
    checkpoints.wait()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._orbax, "save_checkpointables_async", full)
    with pytest.raises(UserError, match=r"cannot save to .*No space left on device\. Earlier checkpoints are intact"):
        checkpoints.save(2, state(2), ABOUT)
    assert_same(checkpoints.restore(abstract(state()))[1], state(1))


@pytest.mark.parametrize(
    ("cause", "kind"), [("NOT_FOUND: ocdbt.process_1", LostProcessError), ("No space left on device", UserError)]
)
def test_of_several_processes_one_that_is_lost_in_a_save_is_no_mistake_of_the_user(opened, monkeypatch, cause, kind):
    checkpoints = opened()

    def fail(*args, **kwargs):
        raise ValueError(f"error in the driver: {cause}")

    monkeypatch.setattr(checkpoints._orbax, "save_checkpointables_async", fail)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(kind, match=f"cannot save to .*{cause}"):
        checkpoints.save(1, state(1), ABOUT)
    monkeypatch.undo()


def test_a_process_that_is_lost_is_no_mistake_of_the_user(monkeypatch):
    """The launcher starts again after it, as it does not after a mistake."""

    async def fail(*_, **__):
        raise RuntimeError("the connection to a peer is gone")

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(store.ocp.multihost, "sync_global_processes", fail)
    with pytest.raises(LostProcessError, match=r"^waiting for 'data prepared': another process was lost$"):
        wait_for_all("data prepared", 3600)
    with pytest.raises(LostProcessError, match=r"another process did not come within 0 s$"):
        wait_for_all("data prepared", 0)
