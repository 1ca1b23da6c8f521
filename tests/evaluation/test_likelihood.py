"""The likelihood of every token, as the whole model gives it."""

import jax
import numpy as np
import pytest

from rnope_jax.evaluation import likelihood
from rnope_jax.evaluation.batches import grouped
from rnope_jax.evaluation.likelihood import likelihoods
from rnope_jax.inference.generate import rounded
from rnope_jax.model import bind
from tests.helpers import random_params, tiny_model

CONFIG = tiny_model(num_layers=3)
PARAMS = random_params(CONFIG)
#: Past twice the window of 5, in two chunks of 256, and rows of the same and of other lengths.
LENGTHS = (2, 3, 40, 17, 300, 40, 300, 2)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return [rng.integers(0, CONFIG.vocab_size, length).tolist() for length in LENGTHS]


@pytest.fixture(scope="module")
def expected(rows):
    """Losses and greedy hits from the full logits, in numpy."""
    call = jax.jit(lambda tokens: bind(CONFIG, PARAMS)(tokens))
    found = []
    for row in rows:
        padded = np.zeros((1, 320), np.int32)
        padded[0, : len(row)] = row
        logits = np.asarray(call(padded), np.float64)[0, : len(row) - 1]
        normaliser = np.log(np.exp(logits).sum(axis=-1))
        targets = np.array(row[1:])
        found.append((normaliser - logits[np.arange(len(targets)), targets], logits.argmax(axis=-1) == targets))
    return found


def collect(rows, **options):
    found = {}
    for numbers, own in likelihoods(CONFIG, PARAMS, rows, **options):
        found |= dict(zip(numbers, own, strict=True))
    return found


@pytest.mark.parametrize("batch_tokens", [350, 700])
def test_losses_are_those_of_the_full_logits(rows, expected, batch_tokens, monkeypatch):
    monkeypatch.setattr(likelihood, "_LOGITS", 4 * 64 * 3 * 7)  # pieces that divide nothing
    found = collect(rows, batch_tokens=batch_tokens)
    assert sorted(found) == list(range(len(rows)))
    for number, (loss, greedy) in enumerate(expected):
        np.testing.assert_allclose(found[number].loss, loss, atol=1e-4)
        np.testing.assert_array_equal(found[number].greedy, greedy)


def test_what_is_done_is_left_out_and_changes_nothing_else(rows):
    whole = collect(rows, batch_tokens=350)
    groups = grouped([len(row) - 1 for row in rows], 350)
    assert len(groups) > 2
    part = collect(rows, batch_tokens=350, done=set(groups[0].rows) | {groups[2].rows[0]})
    assert set(part) == set(whole) - set(groups[0].rows)
    for number, own in part.items():
        np.testing.assert_array_equal(own.loss, whole[number].loss)


def test_groups_hold_every_row_once_and_no_more_than_fits():
    lengths = np.random.default_rng(1).integers(1, 900, 300).tolist()
    groups = grouped(lengths, 2000)
    assert sorted(row for group in groups for row in group.rows) == list(range(300))
    for group in groups:
        longest = max(lengths[row] for row in group.rows)
        assert group.size * rounded(longest) <= 2000 or group.size == 1
        assert group.size & (group.size - 1) == 0
        assert len(group.fill(lengths)) == group.size
        assert len(group.rows) == group.size or group is groups[-1] or group.size < 2 * len(group.rows)
    firsts = [lengths[group.rows[0]] for group in groups]
    assert firsts == sorted(firsts, reverse=True)
    assert grouped([5000], 2000) == [((0,), 1)]
    # Few shapes: each is compiled for itself.
    assert len({(group.size, rounded(lengths[group.rows[0]])) for group in groups}) < 30
