"""Continuing prompts with caches, against repeated full passes without any."""

import importlib

import jax
import numpy as np
import pytest

from rnope_jax import model
from rnope_jax.errors import UserError
from rnope_jax.inference import Sampling, Stats, arrange, generate
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
        for compiled in (module.decode, module._read, module._first):
            compiled.clear_cache()

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


def begun(prompts=None, stop=None, context=64):
    """Sequences with their first token, and the model that continues them."""
    config, params = arrange(CONFIG, PARAMS)
    batch = module.side_by_side(prompts or ragged_prompts())
    cache, hidden = module.prefill(config, params, batch, context)
    key = jax.random.key(0)
    settings = (config, Sampling(), stop, params)
    _, sequences = module._first(*settings, cache, hidden, batch.lengths, key)
    return settings, sequences, key


def test_the_loop_ends_when_every_row_has_ended(greedy, monkeypatch, fresh):
    draw, drawn = module._draw, []

    def counting(*args):
        jax.debug.callback(lambda: drawn.append(1))
        return draw(*args)

    place = next(i for i in range(2, 12) if greedy[1, i] not in greedy[1, :i])
    settings, sequences, key = begun([ragged_prompts()[1]], stop=int(greedy[1, place]))
    monkeypatch.setattr(module, "_draw", counting)
    for expected in ([*greedy[1, 1:place], *[-1] * (17 - place)], [-1] * 16):
        tokens, sequences = module.decode(*settings, sequences, key, 16)
        np.testing.assert_array_equal(tokens[0], expected)
    jax.effects_barrier()
    assert len(drawn) == place  # the last of them is the stop token; nothing ran after it


def test_the_loop_makes_as_many_tokens_as_it_is_told(greedy):
    settings, sequences, key = begun()
    for made, count in ((1, 3), (4, 0), (4, 11)):
        tokens, sequences = module.decode(*settings, sequences, key, count)
        np.testing.assert_array_equal(tokens[:, :count], greedy[:, made : made + count])
        assert (tokens[:, count:] == -1).all()
    np.testing.assert_array_equal(sequences.length, [3 + 15, 17 + 15, 9 + 15])


def test_a_row_that_has_ended_stores_nothing_more(greedy):
    place = next(
        i for i in range(1, 12) if greedy[0, i] not in greedy[0, :i] and greedy[0, i] not in greedy[1:, : i + 5]
    )
    settings, sequences, key = begun(stop=int(greedy[0, place]))
    _, after = module.decode(*settings, sequences, key, place + 4)
    for layer in jax.tree.leaves(after.cache, is_leaf=lambda x: hasattr(x, "positions")):
        assert layer.positions[0].max() == 3 + place - 1
        assert layer.positions[1].max() == 17 + place + 3


def test_giving_the_cache_away_changes_nothing(greedy):
    settings, sequences, key = begun()
    keeping = jax.jit(module.decode.__wrapped__, static_argnums=(0, 1, 2))
    kept = keeping(*settings, sequences, key, 16)
    again = keeping(*settings, sequences, key, 16)  # the same sequences: nothing was overwritten
    given = module.decode(*settings, sequences, key, 16)
    for other in (again, given):
        for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)
    assert sequences.cache[1][0].keys.is_deleted()


def test_the_cache_is_not_copied_in_the_loop():
    settings, sequences, key = begun(context=4096)
    memory = module.decode.lower(*settings, sequences, key, 16).compile().memory_analysis()
    cache = sum(x.nbytes for x in jax.tree.leaves(sequences.cache))
    full = max(x.nbytes for x in jax.tree.leaves(sequences.cache))
    assert memory.alias_size_in_bytes >= cache
    assert memory.temp_size_in_bytes < full  # logits and masks of a layer, but no copy of its keys


@pytest.mark.parametrize("length", [1, 15, 16, 17, 31, 255, 256, 257, 300, 1000])
def test_prompts_are_padded_to_few_lengths(length):
    prompts = module.side_by_side([[7] * length, [5]])
    pieces = [chunk.stop - chunk.start for chunk in prompts.chunks]
    assert set(pieces) <= {16, 32, 64, 128, 256}
    assert set(pieces[:-1]) <= {256}
    assert sum(pieces) == prompts.tokens.shape[1] < max(16, 2 * length) + 1
    np.testing.assert_array_equal(prompts.positions[0], [*range(length), *[-1] * (sum(pieces) - length)])
    np.testing.assert_array_equal((prompts.positions >= 0).sum(1), [length, 1])


def test_caches_are_made_for_few_contexts():
    contexts = np.arange(1, 5000)
    found = np.array([module.rounded(int(n)) for n in contexts])
    assert (found >= contexts).all()
    assert (found <= np.maximum(contexts + 15, 1.13 * contexts)).all()
    assert len(np.unique(found)) < 64


def test_half_the_weights_are_read_where_products_are_in_half_precision():
    """Cast once before the loop; the tokens are those of weights that are cast at each use."""
    config = tiny_model(compute_dtype="bfloat16", vocab_size=64)
    unrolled, params = arrange(config, PARAMS)
    for name, value in params.items():
        assert value.dtype == (np.float32 if name.endswith("scale") else "bfloat16"), name
    assert arrange(unrolled, params)[1] is not None
    assert all(a is b for a, b in zip(arrange(unrolled, params)[1].values(), params.values(), strict=True))
    wide = arrange(CONFIG, PARAMS)[1]
    prompts = ragged_prompts()
    batch = module.side_by_side(prompts)
    for a, b in zip(*(module.prefill(unrolled, p, batch, 64) for p in (params, wide)), strict=True):
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(x, y)


def test_statistics_agree_with_what_was_made(greedy):
    stats, compiled = Stats(), []
    stop = int(greedy[1, 7])
    listener = lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None  # noqa: E731
    columns = []
    made = generate(CONFIG, PARAMS, ragged_prompts(), MADE, stop_token=stop, stats=stats)
    columns.append(next(made))
    jax.monitoring.register_event_duration_secs_listener(listener)
    columns += made
    jax.monitoring.unregister_event_duration_listener(listener)
    assert not compiled
    tokens = int((np.stack(columns) >= 0).sum())
    assert (stats.prompts, stats.prompt_tokens, stats.tokens) == (3, 3 + 17 + 9, tokens)
    assert stats.rest_tokens == tokens - 3
    assert stats.tokens_per_second == stats.rest_tokens / stats.rest_seconds > 0
    assert min(stats.compile_seconds, stats.first_seconds) > 0
    assert stats.context == module.rounded(17 + MADE)
    config, params = arrange(CONFIG, PARAMS)
    held = [x for x in jax.tree.leaves(module.empty_state(config, params, 3, stats.context)[0]) if x.ndim == 4]
    assert stats.cache_bytes == sum(x.nbytes for x in held)
    full = len(CONFIG.layer_kinds) * 2 * 3 * stats.context * 2 * 8 * 4
    assert stats.full_cache_bytes == full
    assert f"{stats.tokens_per_second:.1f} tokens/s" in str(stats)


def test_nothing_is_compiled_while_the_clock_runs(fresh):
    """From the prompts to the last token; other sizes than anywhere else, so that nothing is there already."""
    stats, compiled = Stats(), []

    def listener(name, seconds, **_):
        if "backend_compile" in name and stats.context:  # set when the clock starts
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        list(generate(CONFIG, PARAMS, [[1, 2, 3]] * 5, 19, sampling=DRAWN, stats=stats))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert stats.tokens == 5 * 19
    assert not compiled


@pytest.mark.parametrize("prompts", [[], [[1, 2], []]])
def test_a_prompt_needs_a_token(prompts):
    with pytest.raises(UserError, match="a prompt needs at least one token"):
        run(prompts)


def test_at_least_one_token_must_be_asked_for():
    with pytest.raises(UserError, match="max_tokens = 0"):
        run([[1]], 0)
