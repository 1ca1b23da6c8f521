"""A run that cannot go on says what it has found."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from rnope_jax import model
from rnope_jax.config import OptimizerConfig
from rnope_jax.data import Mixture
from rnope_jax.training.diagnosis import bad_gradients, first_bad
from rnope_jax.training.loop import TrainingError
from tests.helpers import random_params, tiny_model
from tests.training.runs import metrics, run_config, train
from tests.training.steps import mesh_of, packed_batch, step_config, take_steps


@pytest.fixture
def config(corpus, tmp_path):
    return run_config(corpus, tmp_path / "run", optimizer=OptimizerConfig(max_skipped=3))


@pytest.fixture
def poison(monkeypatch):
    """Batches of the steps in `steps` (from 0) get a weight that is not finite."""
    steps: set[int] = set()

    sound = Mixture.batch

    def poisoned(self, step, wanted=None):
        batch = sound(self, step, wanted)
        bad = step in steps and self.stage.name == "first"
        return batch._replace(loss_mask=batch.loss_mask * np.nan) if bad else batch

    monkeypatch.setattr(Mixture, "batch", poisoned)
    return steps


def test_too_many_skipped_steps_end_the_run_with_tensors_and_documents(config, poison, monkeypatch):
    poison |= {2, 3, 4, 5}
    seen = []
    documents_of = Mixture.documents
    monkeypatch.setattr(
        Mixture, "documents", lambda self, step: seen.append((self, step, documents_of(self, step))) or seen[-1][2]
    )
    with pytest.raises(TrainingError) as caught:
        train(config)
    message = str(caught.value)
    assert "step 5 skipped (3 in a row): loss or gradient not finite (embedding, layers.0.norm" in message
    assert "The loss mask of its batch is not finite, in rows 0, 1, 2, 3 of the batch" in message
    assert "optimizer.max_skipped = 3" in message
    assert "the checkpoints [3] are sound" in message
    ((mixture, step, documents),) = seen
    assert (mixture.stage.name, step) == ("first", 4)
    assert all(name in message for name in documents[:5])
    # What was reported up to there is in the file.
    assert [line["skipped"] for line in metrics(config.directory) if "loss" in line] == [0, 0, 1, 2]


def test_fewer_are_told_and_passed_over(config, poison):
    poison |= {1, 3, 4}
    result = train(config)
    told = [line for line in result.said if "skipped" in line]
    assert [line.split(":")[0] for line in told] == [
        "step 2 skipped (1 in a row)",
        "step 4 skipped (1 in a row)",
        "step 5 skipped (2 in a row)",
    ]
    assert int(result.state.step) == 10
    assert np.isfinite(result.state.params["embedding"]).all()


def test_a_skipped_step_is_counted_across_a_resume(config, poison):
    """A run that dies and comes back must not pass the limit unseen."""
    poison |= {1, 2, 3}
    train(config, stop_at=2)
    with pytest.raises(TrainingError, match=r"step 4 skipped \(3 in a row\)"):
        train(replace(config))


#: Two periods of two layers and one that is left over.
DEEP = step_config(model=tiny_model())


def spoiled(name: str, place: tuple, value: float) -> dict:
    """Parameters of which some are multiplied."""
    params = {key: np.array(array) for key, array in random_params(DEEP.model, gain=0.5).items()}
    params[name][place] *= value
    return params


def diagnosed(params, batch=None, gradients=(), devices=1) -> str:
    mesh = mesh_of(fsdp=devices)
    placed = {name: jax.device_put(params[name], place) for name, place in model.shardings(DEEP.model, mesh).items()}
    return first_bad(DEEP, 0, mesh, placed, batch or packed_batch(DEEP), list(gradients))


def test_a_walk_ends_where_the_forward_pass_does():
    batch, params = packed_batch(DEEP), random_params(DEEP.model, gain=0.5)
    bound = model.bind(DEEP.model, params)
    names, values = zip(*model.walk(bound, batch.tokens, batch.positions, batch.segment_ids), strict=True)
    expected = jax.jit(lambda: bound.hidden(batch.tokens, positions=batch.positions, segment_ids=batch.segment_ids))()
    np.testing.assert_allclose(values[-1], expected, atol=2e-5)
    layer = ["layers.{}.norm", "layers.{}.attention", "layers.{}.mlp", "layers.{}"]
    assert list(names) == ["embedding", *(part.format(i) for i in range(5) for part in layer), "norm"]


@pytest.mark.parametrize(
    ("name", "place", "value", "found"),
    [
        ("embedding", (3, 2), np.nan, "the parameter embedding"),
        ("periods.1.mlp.gate", (1, 0, 0), np.inf, "the parameter layers.3.mlp.gate"),
        ("remainder.0.attention.query", (0, 0, 0), np.nan, "the parameter layers.4.attention.query"),
        ("norm.scale", (1,), np.nan, "the parameter norm.scale"),
        ("periods.0.mlp.up", (1,), 3e38, "the activation layers.2.mlp, in row"),
        ("periods.1.attention.value", (0,), 3e38, "the activation layers.1.attention, in row"),
        ("norm.scale", (), 3e37, "the activation logits (or their loss)"),
    ],
)
def test_the_first_bad_tensor_is_named(name, place, value, found):
    """Later ones are bad as well."""
    message = diagnosed(spoiled(name, place, value), gradients=["embedding"])
    assert message.startswith(f"The first tensor that is not finite is {found}"), message


def test_the_rows_of_a_bad_activation_are_named():
    """One token has an embedding that overflows."""
    batch = packed_batch(DEEP)
    token = int(batch.tokens[2, 1])
    rows = np.flatnonzero((batch.tokens == token).any(axis=1))
    assert len(rows) < 5
    message = diagnosed(spoiled("embedding", (token,), 1e38), batch)
    named = ", ".join(map(str, rows))
    assert f"the activation layers.0.norm, in row{'s' * (len(rows) > 1)} {named} of the batch" in message


def test_several_devices_find_what_one_finds():
    """In the rows of others too, and past the last layer."""
    batch = packed_batch(DEEP)
    for changed in (("embedding", (int(batch.tokens[-1, 1]),), 1e38), ("norm.scale", (), 3e37), ("norm.scale", (), 1)):
        params = spoiled(*changed)
        assert diagnosed(params, batch, devices=2) == diagnosed(params, batch)


def test_a_token_that_the_model_does_not_have_is_named():
    batch = packed_batch(DEEP)
    batch.tokens[3, 7] = DEEP.model.vocab_size
    expected = "The tokens of its batch are wrong: 64 in row 3, place 7, is none of the 64 tokens of the model"
    assert diagnosed(random_params(DEEP.model), batch) == expected


def test_where_the_forward_pass_is_sound_the_gradient_is_named():
    params = random_params(DEEP.model, gain=0.5)
    found = diagnosed(params, gradients=["embedding", "layers.2.norm.scale"])
    assert "the first gradient on the way back that is not is that of layers.2.norm.scale" in found
    assert diagnosed(params) == "With the parameters at hand all activations are finite"


def test_gradients_are_told_apart_layer_by_layer():
    """Of parameters that are stacked."""
    shapes = {name: info.shape for name, info in model.describe(DEEP.model).items()}
    gradients = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    gradients["periods.1.mlp.up"][1, 0, 0] = np.nan
    gradients["periods.0.attention.key"][0, 0, 0, 0] = np.inf
    gradients["norm.scale"][0] = np.nan
    finite = {name: model.all_finite(name, value) for name, value in gradients.items()}
    assert bad_gradients(DEEP.model, finite) == ["layers.0.attention.key", "layers.3.mlp.up", "norm.scale"]


def test_the_step_reports_gradients_in_that_form():
    config = step_config()
    _, (measured,) = take_steps(config, mesh_of(), [packed_batch(config)])
    assert bad_gradients(config.model, measured["gradient_finite"]) == []
    stacked = {len(np.atleast_1d(value)) for value in measured["gradient_finite"].values()}
    assert stacked == {1, config.model.num_periods}
