"""What training begins from."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnope_jax.checkpoint import Checkpoints, integrity, saved_weights
from rnope_jax.config import CheckpointConfig, InitConfig, OptimizerConfig
from rnope_jax.errors import UserError
from rnope_jax.interop.names import HUGGING_FACE, tensors
from rnope_jax.layers import LayerKind, rnope_swa
from rnope_jax.run import open_run
from rnope_jax.training.start import check_source, restore_or_init
from rnope_jax.training.state import Health, TrainState, make_optimizer
from rnope_jax.training.step import to_devices
from rnope_jax.weights import rearranged
from tests.checkpoint.faults import flip_bit, kinds
from tests.helpers import random_params, tiny_model
from tests.interop.models import make_run
from tests.training.runs import run_config, tree_hash
from tests.training.steps import mesh_of, packed_batch, step_config, train_step

#: Two stages of other RoPE bases.
CONFIG = run_config(Path("text"), Path("run"))


@pytest.fixture(scope="module")
def trained_params():
    return random_params(CONFIG.model)


@pytest.fixture(scope="module")
def trained(trained_params, tmp_path_factory):
    """A run at the end of its two stages. Only to be read."""
    directory = tmp_path_factory.mktemp("runs") / "trained"
    return make_run(directory, CONFIG.model, params=trained_params, step=10, stages=CONFIG.stages)


@pytest.fixture
def begin():
    """Begins a run in tmp_path / "run"; gives its state on the host and what was said."""

    def run(config, mesh=None):
        check_source(config)
        said = []
        checkpoints = Checkpoints(config.directory / "checkpoints", CheckpointConfig())
        try:
            mesh = mesh or mesh_of()
            with jax.set_mesh(mesh):
                return restore_or_init(config, mesh, checkpoints, {}, said.append), said
        finally:
            checkpoints.close()

    return run


def from_source(config, source, directory, **changes):
    return replace(config, run_dir=str(directory), init=InitConfig(source=str(source), **changes))


def by_layer(params, config) -> dict[str, np.ndarray]:
    """Parameters layer by layer under the names of another format, whatever the pattern."""
    return {
        tensor.name: np.asarray(
            params[tensor.parameter] if tensor.layer is None else params[tensor.parameter][tensor.layer]
        )
        for tensor in tensors(config, HUGGING_FACE)
    }


def assert_equal(actual, expected) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(np.asarray(actual[name]), np.asarray(expected[name]), err_msg=name)


def test_parameters_of_a_run_are_taken_and_everything_else_begins(begin, trained, trained_params, tmp_path):
    config = from_source(CONFIG, trained.path, tmp_path / "run")
    state, said = begin(config)
    assert said[0] == f"starting from the parameters of {trained.path} after step 10"
    assert_equal(state.params, trained_params)
    assert int(state.step) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((state.optimizer, state.health)))


def test_another_rope_base_is_said(begin, trained, trained_params, tmp_path):
    """The source ended with the base of its last stage; what counts here is that of the first."""
    config = from_source(CONFIG, trained.path, tmp_path / "run")
    said = begin(config)[1]
    assert len(said) == 2
    assert (
        "1 of its 2 layers were of another kind (layer 0: window 5 + RoPE 10000 there, window 5 + RoPE 100" in said[1]
    )
    same = replace(config, stages=(replace(config.stages[0], rope_theta=10_000.0), config.stages[1]))
    assert len(begin(same)[1]) == 1


def test_other_factors_and_constants_are_said(begin, tmp_path):
    make_run(tmp_path / "source", tiny_model(vocab_size=270, logit_scale=0.25, norm_eps=1e-6))
    config = from_source(step_config(model=tiny_model(vocab_size=270)), tmp_path / "source", tmp_path / "run")
    said = begin(config)[1]
    assert [line.strip() for line in said[1:]] == [
        "its logit factor was 0.25 and is 1 now",
        "its norm eps was 1e-06 and is 1e-05 now",
    ]


def test_another_optimizer_is_refused_and_a_new_run_begins_with_it(begin, trained, trained_params, tmp_path):
    """By the command that the refusal names; optimizer state, step and schedule begin anew."""
    other = replace(CONFIG, optimizer=OptimizerConfig(name="adafactor"))
    with (
        pytest.raises(UserError, match=r"optimizer\.name(.|\n)*--init\.source \S*trained begins with the parameters"),
        open_run(replace(other, run_dir=str(trained.path))),
    ):
        pass
    state, said = begin(from_source(other, trained.path, tmp_path / "run"))
    assert said[0] == f"starting from the parameters of {trained.path} after step 10"
    assert_equal(state.params, trained_params)
    assert int(state.step) == 0
    assert jax.tree.structure(state.optimizer) == jax.tree.structure(make_optimizer(other).init(state.params))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((state.optimizer, state.health)))


def test_parameters_come_from_the_newest_whole_checkpoint_of_the_source(begin, trained, trained_params, tmp_path):
    source = shutil.copytree(trained.path, tmp_path / "source")
    shutil.copytree(source / "checkpoints" / "10", source / "checkpoints" / "9")
    integrity.seal(source / "checkpoints" / "9")
    flip_bit(kinds(source / "checkpoints" / "10")["state/d/*"][0], random.Random(0))
    state, said = begin(from_source(CONFIG, source, tmp_path / "run"))
    assert said[0] == f"starting from the parameters of {source} after step 9"
    assert_equal(state.params, trained_params)


@pytest.mark.parametrize("layers", [3, 6, 9], ids=["remainder only", "whole periods", "both"])
def test_a_rope_checkpoint_goes_on_as_rnope_swa(begin, tmp_path, layers):
    """The pattern has another length, so the layers are stacked otherwise; each keeps its own parameters."""
    there = tiny_model(pattern=(LayerKind(100.0, None),), num_layers=layers, vocab_size=270)
    here = replace(there, pattern=rnope_swa(window=5, theta=100.0, ratio=3))
    params = random_params(there)
    make_run(tmp_path / "source", there, params=params)
    state, said = begin(from_source(step_config(model=here), tmp_path / "source", tmp_path / "run"))
    assert_equal(by_layer(state.params, here), by_layer(params, there))
    assert f"{layers} of its {layers} layers were of another kind (layer 0: full + RoPE 100 there, window 5" in said[1]
    # And back.
    make_run(tmp_path / "hybrid", here, params=state.params)
    back = begin(from_source(step_config(model=there), tmp_path / "hybrid", tmp_path / "run2"))[0]
    assert_equal(back.params, params)


def test_a_rearranged_parameter_is_read_piece_by_piece(tmp_path):
    there = tiny_model(pattern=(LayerKind(100.0, None),), num_layers=5, vocab_size=270)
    here = replace(there, pattern=rnope_swa(window=5, ratio=1))
    run = make_run(tmp_path / "source", there)
    weights = rearranged(saved_weights(run.checkpoints), there, here)
    name = "periods.1.mlp.gate"  # layers 1 and 3
    whole = weights.read(name)
    assert whole.shape == (2, 16, 24)
    piece = weights.read(name, (slice(1, 2), slice(4, 8), slice(None)))
    np.testing.assert_array_equal(piece, whole[1:2, 4:8])
    np.testing.assert_array_equal(whole, saved_weights(run.checkpoints).read("periods.0.mlp.gate")[1:4:2])
    assert weights.dtype(name, 1) == np.float32


def test_on_eight_devices_the_same_parameters(begin, trained, trained_params, tmp_path):
    config = from_source(CONFIG, trained.path, tmp_path / "run")
    state, _ = begin(config, mesh_of(2, 2, 2))
    assert_equal(state.params, trained_params)
    sharded = state.params["periods.0.mlp.gate"]
    assert sharded.addressable_shards[0].data.size * 4 == sharded.size
    assert state.optimizer["adam"]["mu"]["periods.0.mlp.gate"].sharding == sharded.sharding


SHAPES = {
    "width": (
        {"d_ff": 32},
        r"parameter layers\.0\.mlp\.down is \(24, 16\) there and \(32, 16\) .* set model\.d_ff = 24",
    ),
    "layers": (
        {"num_layers": 3},
        r"parameter layers\.2\.\S+ is absent there and \(16.*\) .* set model\.num_layers = 2",
    ),
    "vocabulary": ({"vocab_size": 301}, r"parameter embedding is \(300, 16\) there .* set model\.vocab_size = 300"),
    "qk-norm": (
        {"pattern": (LayerKind(100.0, 5, qk_norm=True),)},
        r"parameter layers\.0\.attention\.\w+_norm\.scale is absent there .* set qk_norm of every layer as it is there",
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_other_shapes_are_refused_before_anything_is_written(trained, tmp_path, case):
    changes, pattern = SHAPES[case]
    config = from_source(CONFIG, trained.path, tmp_path / "run")
    config = replace(config, model=replace(config.model, **changes))
    before = tree_hash(trained.path)
    with pytest.raises(UserError, match=pattern) as caught:
        check_source(config)
    assert str(trained.path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert tree_hash(trained.path) == before


def test_a_source_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        check_source(from_source(CONFIG, tmp_path / "nowhere", tmp_path / "run"))


def test_the_home_directory_may_be_written_short(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(trained.path.parent))
    check_source(from_source(CONFIG, f"~/{trained.path.name}", tmp_path / "run"))


def test_a_run_that_has_a_checkpoint_needs_its_source_no_more(begin, trained, trained_params, tmp_path):
    source = shutil.copytree(trained.path, tmp_path / "source")
    config = from_source(CONFIG, source, tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", CheckpointConfig())
    checkpoints.save(3, begin(config)[0].to_dict(), {"step": 3})
    checkpoints.close()
    shutil.rmtree(source)
    state, said = begin(config)
    assert said[-1] == "resuming after step 3"
    assert_equal(state.params, trained_params)


def test_an_interrupted_first_save_is_no_checkpoint(trained, tmp_path):
    config = from_source(CONFIG, tmp_path / "gone", tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    with pytest.raises(UserError, match="gone does not exist"):
        check_source(config)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adafactor"])
def test_the_optimizer_is_taken_over_exactly(begin, tmp_path, optimizer):
    """The first update is the one that the source itself would have made."""
    config = step_config(optimizer=OptimizerConfig(name=optimizer, eps=1e-3), run_dir=str(tmp_path / "source"))
    mesh = mesh_of()
    params = random_params(config.model, gain=0.5)
    state = TrainState(
        jnp.int32(7), params, make_optimizer(config).init(params), Health(jnp.int32(0), jnp.float32(2.0))
    )
    rng = np.random.default_rng(0)
    moments = jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(0.01, 0.1, x.shape), x.dtype) if x.ndim else x + 7, state.optimizer
    )
    state = replace(state, optimizer=moments)
    run = make_run(tmp_path / "source", config.model, optimizer=config.optimizer, stages=config.stages)
    shutil.rmtree(run.checkpoints)
    checkpoints = Checkpoints(run.checkpoints, CheckpointConfig())
    checkpoints.save(7, state.to_dict(), {"step": 7})
    checkpoints.close()

    taken, said = begin(from_source(config, run.path, tmp_path / "run", optimizer=True))
    assert said[0] == f"starting from the parameters and optimizer of {run.path} after step 7"
    assert int(taken.step) == 0
    assert float(taken.health.norm_mean) == 0
    jax.tree.map(np.testing.assert_array_equal, taken.optimizer, moments)
    if optimizer != "adamw":  # equal states make equal updates; one of them is shown
        return
    with jax.set_mesh(mesh):
        step, batch = train_step(config, 0, mesh), to_devices(packed_batch(config), mesh)
        taken, state = jax.tree.map(jnp.copy, (taken, state))  # a step consumes its state
        after = jax.device_get(step(taken, batch)[0])
        expected = jax.device_get(step(jax.device_put(state, jax.tree.map(lambda x: x.sharding, taken)), batch)[0])
    assert_equal(after.params, expected.params)
    assert int(expected.step) == 8


def test_another_optimizer_is_refused(trained, tmp_path):
    config = from_source(CONFIG, trained.path, tmp_path / "run", optimizer=True)
    other = replace(config, optimizer=OptimizerConfig(name="muon"))
    with pytest.raises(
        UserError, match=r"was trained with adamw; set optimizer\.name = 'adamw' \(now 'muon'\), or"
    ) as e:
        check_source(other)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()


def test_an_optimizer_of_another_arrangement_is_refused(tmp_path):
    model = tiny_model(vocab_size=270, num_layers=4)
    make_run(tmp_path / "source", model)
    longer = replace(model, pattern=rnope_swa(window=5, ratio=3))
    config = from_source(step_config(model=longer), tmp_path / "source", tmp_path / "run", optimizer=True)
    with pytest.raises(UserError, match=r"init\.optimizer: the pattern has 4 layer kinds, that of .* 2; repeat it"):
        check_source(config)
