"""The training step: accumulation, refused updates, donation."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from rnope_jax.config import LossConfig, OptimizerConfig
from rnope_jax.training.step import to_devices
from tests.helpers import assert_close, assert_close_by_name
from tests.training.steps import (
    first_state,
    mesh_of,
    packed_batch,
    step_config,
    take_steps,
    train_step,
    with_stage,
)


def assert_same_bits(actual: object, expected: object) -> None:
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("accumulation", [2, 4])
def test_micro_batches_give_the_update_of_the_whole_batch(accumulation):
    """Weights differ from row to row, so a mean of the means of micro-batches would be another one."""
    config = step_config(loss=LossConfig(z_loss=0.01))
    batch = packed_batch(config)
    weights = batch.loss_mask.sum(axis=1)
    assert weights.max() > 4 * weights.min()
    whole, (expected,) = take_steps(config, mesh_of(), [batch])
    parts, (actual,) = take_steps(with_stage(config, accumulation=accumulation), mesh_of(), [batch])
    for name in ("loss", "z", "gradient_norm", "tokens"):
        assert_close(actual[name], expected[name], 1e-5, name)
    first = jax.device_get(first_state(config, mesh_of()).params)
    moved = {name: whole.params[name] - first[name] for name in first}
    assert_close_by_name({name: parts.params[name] - first[name] for name in first}, moved, 1e-3)
    assert min(np.abs(x).max() for x in moved.values()) > 1e-4


def test_the_loss_is_the_mean_over_counted_tokens():
    config = step_config()
    batch = packed_batch(config)
    _, (metrics,) = take_steps(config, mesh_of(), [batch])
    assert metrics["tokens"] == batch.loss_mask.sum()
    # Rows that count twice as much: the mean stays.
    _, (doubled,) = take_steps(config, mesh_of(), [batch._replace(loss_mask=2 * batch.loss_mask)])
    assert doubled["loss"] == pytest.approx(metrics["loss"], rel=1e-6)


def test_the_state_is_consumed_and_the_step_compiles_once():
    config = step_config()
    step, state = train_step(config, 0, mesh_of()), first_state(config, mesh_of())
    with jax.set_mesh(mesh_of()):
        for seed in range(4):
            before = state
            state, _ = step(state, to_devices(packed_batch(config, seed), mesh_of()))
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.params, before.optimizer)))
    assert step._cache_size() == 1
    assert int(state.step) == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(bad):
    config = step_config()
    good = packed_batch(config)
    mask = good.loss_mask.copy()
    mask[3, 2] = bad
    broken = good._replace(loss_mask=mask)
    after_good, _ = take_steps(config, mesh_of(), [good])
    skipped, metrics = take_steps(config, mesh_of(), [good, broken, broken])
    assert_same_bits((skipped.params, skipped.optimizer), (after_good.params, after_good.optimizer))
    assert_same_bits(skipped.health.norm_mean, after_good.health.norm_mean)
    assert [int(m["skipped"]) for m in metrics] == [0, 1, 2]
    assert int(skipped.step) == 3
    assert not any(metrics[1]["gradient_finite"].values())
    assert all(metrics[0]["gradient_finite"].values())
    recovered, metrics = take_steps(config, mesh_of(), [good, broken, good])
    assert [int(m["skipped"]) for m in metrics] == [0, 1, 0]
    assert (recovered.params["embedding"] != after_good.params["embedding"]).any()


def test_a_spike_of_the_gradient_norm_is_skipped_and_not_averaged():
    config = step_config(optimizer=OptimizerConfig(eps=1e-3, skip_spikes=1.5))
    calm = packed_batch(config)
    # A single token: its gradient is not averaged with others, so it is larger.
    mask = np.zeros_like(calm.loss_mask)
    mask[0, 0] = 1
    calm_state, (first,) = take_steps(config, mesh_of(), [calm])
    state, (_, spike) = take_steps(config, mesh_of(), [calm, calm._replace(loss_mask=mask)])
    assert spike["gradient_norm"] > 1.5 * first["gradient_norm"]
    assert int(spike["skipped"]) == 1
    assert all(spike["gradient_finite"].values())
    assert_same_bits((state.params, state.optimizer), (calm_state.params, calm_state.optimizer))
    assert state.health.norm_mean == calm_state.health.norm_mean == first["gradient_norm"]
    # Without the setting it is applied.
    _, (_, applied) = take_steps(step_config(), mesh_of(), [calm, calm._replace(loss_mask=mask)])
    assert int(applied["skipped"]) == 0


def test_the_update_is_clipped_to_the_global_norm():
    """Adam forgets the scale of gradients, but its first moment shows what it was given."""
    limit = 0.01
    config = step_config(optimizer=OptimizerConfig(eps=1e-3, clip_norm=limit))
    state, (metrics,) = take_steps(config, mesh_of(), [packed_batch(config)])
    assert metrics["gradient_norm"] > 10 * limit
    moments = jax.tree.leaves(state.optimizer["adam"]["mu"])
    norm = np.sqrt(sum((np.asarray(m, np.float64) ** 2).sum() for m in moments)) / (1 - config.optimizer.beta1)
    assert norm == pytest.approx(limit, rel=1e-4)


def test_training_learns_what_it_is_shown():
    config = step_config()
    batch = packed_batch(config)
    _, metrics = take_steps(config, mesh_of(), [batch] * 40)
    assert metrics[-1]["loss"] < 0.7 * metrics[0]["loss"]


def test_the_rate_follows_the_schedule_of_the_stage():
    config = step_config()
    falling = replace(config.stages[0].schedule, kind="cosine", warmup_steps=2)
    short = with_stage(config, schedule=falling, steps=4)
    _, metrics = take_steps(short, mesh_of(), [packed_batch(config)] * 4)
    assert [float(m["learning_rate"]) for m in metrics] == pytest.approx([0.005, 0.01, 0.0055, 0.001], rel=1e-5)
