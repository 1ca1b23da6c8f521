"""The learning rate at the steps that matter; steps are counted from 1."""

import math

import pytest

from rnope_jax.config import ScheduleConfig, StageConfig
from rnope_jax.training.schedule import learning_rate


def rates(steps: int = 100, **settings) -> list[float]:
    """The rate of every step; index 0 is unused."""
    schedule = ScheduleConfig(**{"peak": 2.0, **settings})
    stage = StageConfig(name="s", steps=steps, sequence_length=1, batch_size=1, schedule=schedule)
    return [math.nan] + [float(learning_rate(stage)(n)) for n in range(1, steps + 1)]


@pytest.mark.parametrize("kind", ["cosine", "wsd", "constant"])
def test_warm_up_rises_evenly_to_the_peak_and_no_step_is_wasted(kind):
    rate = rates(kind=kind, warmup_steps=10)
    assert rate[1:11] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert max(rate[1:]) == pytest.approx(2.0)


def test_cosine_falls_along_half_a_wave():
    rate = rates(kind="cosine", warmup_steps=20, final_fraction=0.1)
    expected = [0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi * (n - 20) / 80)) for n in range(20, 101)]
    assert rate[20:] == pytest.approx(expected, rel=1e-5)
    assert rate[100] == pytest.approx(0.2)


def test_wsd_stays_and_then_falls_evenly():
    rate = rates(kind="wsd", warmup_steps=10, decay_fraction=0.2, final_fraction=0.5)
    assert rate[10:81] == pytest.approx([2.0] * 71)
    assert rate[80:] == pytest.approx([2.0 - 0.05 * n for n in range(21)])


def test_constant_stays():
    assert rates(kind="constant", warmup_steps=3)[3:] == pytest.approx([2.0] * 98)


@pytest.mark.parametrize("kind", ["cosine", "wsd"])
def test_without_warm_up_the_last_step_still_has_the_final_rate(kind):
    rate = rates(kind=kind, final_fraction=0.25)
    assert rate[1] > 1.99
    assert rate[100] == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["cosine", "wsd", "constant"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (5, 5)])
def test_the_shortest_stages_have_finite_positive_rates(kind, steps, warmup):
    rate = rates(steps, kind=kind, warmup_steps=warmup, final_fraction=0.1)
    assert all(0 < r <= 2.0 for r in rate[1:])


@pytest.mark.parametrize(("fraction", "last"), [(0.0, 2.0), (1.0, 0.2)])
def test_wsd_may_never_or_always_decay(fraction, last):
    assert rates(kind="wsd", decay_fraction=fraction)[100] == pytest.approx(last)
