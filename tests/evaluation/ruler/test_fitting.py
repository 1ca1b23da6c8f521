"""Texts are made as long as a budget allows, in few tries."""

import numpy as np
import pytest

from rnope_jax.evaluation.ruler.fitting import fit


class Units:
    """A text of units that take these tokens; every letter of the filler takes one."""

    def __init__(self, tokens, filler=30):
        self.sizes = np.cumsum([0, *tokens])
        self.most = len(tokens)
        self.letters = filler
        self.tries = 0

    def build(self, units, letters):
        assert 0 <= units <= self.most
        assert 0 <= letters <= self.letters
        return units, letters

    def filler(self, units):
        return "x" * self.letters

    def count(self, text):
        self.tries += 1
        return int(self.sizes[text[0]] + text[1])


@pytest.mark.parametrize("seed", range(60))
def test_the_budget_is_filled_and_never_passed(seed):
    rng = np.random.default_rng(seed)
    text = Units(rng.integers(1, rng.integers(3, 60), rng.integers(1, 4000)), filler=60)
    budget = int(rng.integers(1, 1.2 * text.sizes[-1]))
    least = int(rng.integers(0, min(5, text.most) + 1))
    size = fit(text, budget, text.count, least, guess=int(rng.integers(0, 5000)) if seed % 2 else None)
    if size is None:
        assert text.sizes[least] > budget
        return
    assert size.tokens == text.count((size.units, size.letters)) <= budget
    everything = size.units == text.most and size.letters == text.letters
    assert everything or size.tokens >= 0.995 * budget
    assert text.tries < 40


def test_a_tokenizer_that_counts_nothing_ends_the_search_too():
    text = Units([0] * 100_000)
    size = fit(text, 1000, text.count, 0)
    assert size.units <= 2000
    assert text.tries < 80


def test_units_that_jump_over_the_budget():
    text = Units([1, 1, 1, 500, 1, 1], filler=0)
    assert fit(text, 300, text.count, 0).units == 3
    assert fit(text, 2, text.count, 3) is None


def test_a_word_is_cut_only_where_the_length_needs_it():
    class Words(Units):
        def filler(self, units):
            return "one three eleven"

    text = Words([400, 400], filler=16)
    assert fit(text, 810, text.count, 1).letters == 9  # "one three"
    assert fit(text, 415, text.count, 1).letters == 15  # the word ends too far from the budget
    assert fit(text, 409, text.count, 1).letters == 9
