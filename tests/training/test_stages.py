"""What changes from stage to stage."""

import jax
import numpy as np
import pytest

from rnope_jax import model
from rnope_jax.config import LossConfig
from rnope_jax.training.loss import batch_loss
from rnope_jax.training.step import to_devices
from tests.training.runs import metrics
from tests.training.steps import evaluation_step, mesh_of, packed_batch, step_config, with_stage


def test_stages_have_their_own_rates_and_names(unbroken):
    lines = [line for line in metrics(unbroken.run.path) if "loss" in line]
    assert [line["stage"] for line in lines] == ["first"] * 6 + ["second"] * 4
    rates = [line["learning_rate"] for line in lines]
    assert rates[:2] == pytest.approx([0.005, 0.01])
    assert rates[5] == pytest.approx(0.001)
    assert rates[6:8] == pytest.approx([0.005, 0.01])
    assert rates[9] == pytest.approx(0.001)


def test_stages_have_their_own_lengths_and_batches(unbroken):
    shapes = [mixture.batch(0).tokens.shape for mixture in unbroken.trainer.corpus.train]
    assert shapes == [(4, 16), (2, 24)]


def test_the_base_of_a_stage_is_that_of_its_own_model():
    """The second stage sets another base, the third keeps it."""
    config = step_config()
    stage = config.stages[0]
    batch = packed_batch(config)
    params = model.init(config.model, 0)
    params = {name: 10 * x if "attention" in name else x for name, x in params.items()}  # positions matter
    later = [with_stage(config, name=name, rope_theta=theta).stages[0] for name, theta in (("b", 1e6), ("c", None))]
    staged = type(config)(name="s", model=config.model, stages=(stage, *later))
    with jax.set_mesh(mesh_of()):
        losses = [
            float(evaluation_step(staged, index, mesh_of())(params, to_devices(batch, mesh_of())).nll)
            for index in range(3)
        ]

        def expected(theta):
            return float(batch_loss(model.bind(config.model.with_theta(theta), params), batch, LossConfig()).nll)

        np.testing.assert_allclose(losses, [expected(100.0), expected(1e6), expected(1e6)], rtol=1e-6)
    assert abs(losses[0] - losses[1]) > 1e-3


def test_training_lowers_the_held_out_loss(unbroken):
    losses = [line["held_out_loss"] for line in metrics(unbroken.run.path) if "held_out_loss" in line]
    assert losses[-1] < losses[0] - 0.3
