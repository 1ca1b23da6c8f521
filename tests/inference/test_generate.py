"""Continuing prompts with caches, against repeated full passes without any."""

import importlib

import jax
import numpy as np
import pytest

from rnope_jax import model
from rnope_jax.errors import UserError
from rnope_jax.inference import Sampling, generate
from tests.helpers import random_params, tiny_model

CONFIG = tiny_model()  # windows of 5
PARAMS = random_params(CONFIG, seed=1, gain=2.0)  # loud layers: greedy texts do not repeat one token
MADE = 20  # past three windows for the shortest prompt, too
DRAWN = Sampling(temperature=1.3, top_k=20, top_p=0.95)

module = importlib.import_module("rnope_jax.inference.generate")  # the package has a function of that name


def ragged_prompts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, CONFIG.vocab_size, n).tolist() for n in (3, 17, 9)]


def run(prompts, count=MADE, **settings) -> np.ndarray:
    """Tokens [B, count]."""
    return np.stack(list(generate(CONFIG, PARAMS, prompts, count, **settings)), axis=1)


@pytest.fixture(scope="module")
def greedy():
    return run(ragged_prompts())


@pytest.fixture(scope="module")
def drawn():
    return run(ragged_prompts(), sampling=DRAWN, seed=5)


@pytest.fixture
def fresh():
    """Constants of the module are part of compiled functions: forget those before and after."""

    def clear():
        module._decode.clear_cache()
        module._read.clear_cache()

    clear()
    yield
    clear()


def test_greedy_tokens_are_those_of_repeated_full_passes(greedy):
    prompts, width = ragged_prompts(), 40
    logits = jax.jit(lambda tokens: model.bind(CONFIG, PARAMS)(tokens))
    rows = np.zeros((len(prompts), width), np.int32)
    lengths = np.array([len(prompt) for prompt in prompts])
    for row, prompt in enumerate(prompts):
        rows[row, : len(prompt)] = prompt
    for step in range(MADE):
        # What follows a token cannot change it, so the unused end of a row may hold anything.
        found = np.asarray(logits(rows))[np.arange(len(prompts)), lengths - 1].argmax(-1)
        np.testing.assert_array_equal(greedy[:, step], found, err_msg=f"token {step}")
        rows[np.arange(len(prompts)), lengths] = found
        lengths += 1
    assert len(np.unique(greedy)) > 10


def test_a_batch_gives_what_its_prompts_give_one_by_one(greedy):
    for row, prompt in enumerate(ragged_prompts()):
        np.testing.assert_array_equal(run([prompt])[0], greedy[row])


def test_a_stop_token_ends_its_row_and_no_other(greedy):
    first = {token: np.argmax(greedy == token, axis=1) for token in np.unique(greedy)}
    stop = next(int(token) for token in first if (first[token] > 2).sum() >= 1 and not (greedy == token).any(1).all())
    made = run(ragged_prompts(), stop_token=stop)
    ended = 0
    for row in range(len(made)):
        places = np.flatnonzero(greedy[row] == stop)
        end = places[0] if len(places) else made.shape[1]
        np.testing.assert_array_equal(made[row, :end], greedy[row, :end])
        assert (made[row, end:] == -1).all()
        ended += len(places) > 0
    assert 1 <= ended < len(made)


def test_nothing_more_is_made_when_every_row_has_ended(greedy):
    place = next(i for i in range(3, MADE) if greedy[1, i] not in greedy[1, :i])
    assert run([ragged_prompts()[1]], stop_token=int(greedy[1, place])).shape == (1, place)


@pytest.mark.parametrize("count", [1, 17])
def test_exactly_as_many_tokens_as_asked_for(greedy, count):
    np.testing.assert_array_equal(run(ragged_prompts(), count), greedy[:, :count])


def test_the_same_seed_gives_the_same_tokens_and_another_does_not(drawn):
    np.testing.assert_array_equal(run(ragged_prompts(), sampling=DRAWN, seed=5), drawn)
    assert (run(ragged_prompts(), sampling=DRAWN, seed=6) != drawn).any(axis=1).all()


def test_rows_of_equal_prompts_draw_independently():
    first, second = run([[5, 6, 7]] * 2, sampling=DRAWN)
    assert (first != second).any()


@pytest.mark.parametrize(("block", "chunk"), [(1, 256), (7, 4), (16, 1)])
def test_blocks_and_chunks_do_not_change_what_is_drawn(monkeypatch, fresh, drawn, block, chunk):
    monkeypatch.setattr(module, "DECODE_BLOCK", block)
    monkeypatch.setattr(module, "PREFILL_CHUNK", chunk)
    np.testing.assert_array_equal(run(ragged_prompts(), sampling=DRAWN, seed=5), drawn)


@pytest.mark.parametrize("prompts", [[], [[1, 2], []]])
def test_a_prompt_needs_a_token(prompts):
    with pytest.raises(UserError, match="a prompt needs at least one token"):
        run(prompts)


def test_at_least_one_token_must_be_asked_for():
    with pytest.raises(UserError, match="max_tokens = 0"):
        run([[1]], 0)
