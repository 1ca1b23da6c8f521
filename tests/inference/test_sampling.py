"""From logits to a token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnope_jax.attention.spec import MASKED
from rnope_jax.errors import UserError
from rnope_jax.inference import Sampling, sample, sampling

DRAWS = 20_000
LOGITS = np.log([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])


def frequencies(settings: Sampling, logits: np.ndarray = LOGITS, seed: int = 0) -> np.ndarray:
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (DRAWS, len(logits)))
    drawn = sample(rows, jax.random.key(seed), settings)
    assert drawn.dtype == jnp.int32
    return np.bincount(drawn, minlength=len(logits)) / DRAWS


def assert_drawn_from(found: np.ndarray, expected: np.ndarray) -> None:
    """Chi-square with a bound that chance exceeds about once in 10^6."""
    assert not found[expected == 0].any()
    kept = expected > 0
    assert (DRAWS * (found[kept] - expected[kept]) ** 2 / expected[kept]).sum() < 40


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution_at_the_temperature(temperature):
    weights = np.exp(LOGITS / temperature)
    assert_drawn_from(frequencies(Sampling(temperature=temperature)), weights / weights.sum())


@pytest.mark.parametrize(
    "settings", [Sampling(), Sampling(temperature=1.0, top_k=1), Sampling(temperature=0, top_p=0.5)]
)
def test_the_likeliest_token(settings):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(50, 30)), jnp.float32)
    np.testing.assert_array_equal(sample(logits, jax.random.key(0), settings), logits.argmax(-1))


@pytest.mark.parametrize("k", [2, 3, 6, 100])
def test_top_k_draws_from_the_likeliest_k(k):
    expected = np.exp(LOGITS) * (np.arange(6) < k)
    assert_drawn_from(frequencies(Sampling(temperature=1.0, top_k=k)), expected / expected.sum())


@pytest.mark.parametrize(("p", "kept"), [(0.01, 1), (0.39, 1), (0.41, 2), (0.64, 2), (0.66, 3), (0.97, 6), (1.0, 6)])
def test_top_p_draws_from_the_smallest_set_that_reaches_p(p, kept):
    shuffle = np.array([3, 0, 5, 1, 4, 2])  # the order of tokens does not matter
    expected = np.exp(LOGITS) * (np.arange(6) < kept)
    found = frequencies(Sampling(temperature=1.0, top_p=p), LOGITS[shuffle])
    assert_drawn_from(found, (expected / expected.sum())[shuffle])


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_the_sets_are_those_of_a_sorted_row(scale):
    rng = np.random.default_rng(0)
    rows = (scale * rng.normal(size=(20, 400))).astype(np.float32)
    rows[:, 300:] = rows[:, :100]  # ties
    rows[0, :5] = [0.0, -0.0, 1e-38, -1e-38, -1e30]
    ordered = -np.sort(-rows, axis=1)
    probabilities = np.exp(ordered - ordered[:, :1], dtype=np.float64)
    before = probabilities.cumsum(1) - probabilities
    for k in (1, 2, 57, 399):
        kept = sampling._keep(jnp.asarray(rows), jnp.ones(rows.shape), k) > MASKED / 2
        np.testing.assert_array_equal(kept, rows >= np.maximum(ordered[:, k - 1 : k], -1e29))
    for p in (0.1, 0.5, 0.9):
        least = np.where(before / probabilities.sum(1, keepdims=True) < p, ordered, np.inf).min(1, keepdims=True)
        kept = sampling._keep(jnp.asarray(rows), jax.nn.softmax(jnp.asarray(rows)), p) > MASKED / 2
        np.testing.assert_array_equal(kept, rows >= least)


def test_top_p_is_taken_of_what_top_k_leaves():
    """After top_k = 2 the first token has 0.4 / 0.65 = 0.615 of the mass."""
    found = frequencies(Sampling(temperature=1.0, top_k=2, top_p=0.6))
    assert found[0] == 1


def test_the_temperature_comes_before_the_sets():
    """At temperature 2 the likeliest token has 0.28 of the mass instead of 0.4."""
    assert (frequencies(Sampling(temperature=2.0, top_p=0.35)) > 0).sum() == 2
    assert (frequencies(Sampling(temperature=1.0, top_p=0.35)) > 0).sum() == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"top_p": float("nan")},
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings):
    ((name, _),) = settings.items()
    with pytest.raises(UserError, match=rf"^{name} = .*must be"):
        Sampling(**settings)
