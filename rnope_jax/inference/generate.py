"""Continuing texts: prompts are read in chunks, then tokens are made in a compiled loop."""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnope_jax import model
from rnope_jax.config import ModelConfig
from rnope_jax.errors import UserError
from rnope_jax.inference.layout import arrange
from rnope_jax.inference.sampling import GREEDY, Sampling, sample
from rnope_jax.inference.stats import Stats
from rnope_jax.model import Caches, Params

#: Prompt tokens that are read at a time: bounds the memory of long prompts.
PREFILL_CHUNK = 256

#: The last chunk is as long as the next power of two, at least this: few lengths are compiled.
SHORTEST_CHUNK = 16

#: Most tokens made per call of the compiled loop; between calls they are handed out.
DECODE_BLOCK = 16


class Prompts(NamedTuple):
    """Prompts of a batch, side by side."""

    tokens: np.ndarray
    """[B, S]"""
    positions: np.ndarray
    """[B, S]; -1 after the end of a prompt."""
    lengths: np.ndarray
    """[B]"""
    chunks: tuple[slice, ...]
    """The pieces of S that are read one after the other."""


class Sequences(NamedTuple):
    """Sequences that are being continued."""

    cache: Caches
    """Holds all tokens but the last."""
    token: jax.Array
    """[B]: the last token of each."""
    length: jax.Array
    """[B]: tokens so far."""
    done: jax.Array
    """[B]: whether the stop token has been made."""


def generate(
    config: ModelConfig,
    params: Params,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    sampling: Sampling = GREEDY,
    stop_token: int | None = None,
    seed: int = 0,
    stats: Stats | None = None,
) -> Iterator[np.ndarray]:
    """Continues prompts of any lengths.

    Args:
      config: the model.
      params: its parameters; copied first where they do not lie as `layout.arrange` makes them.
      prompts: tokens of each prompt, at least one.
      max_tokens: most tokens to make for each.
      sampling: how tokens are drawn.
      stop_token: ends a sequence; None never does.
      seed: of the draws; the same seed gives the same tokens.
      stats: filled in if given; everything is then compiled before the clock starts.

    Yields:
      The next token of every prompt [B], as soon as it is there; -1 where a sequence has ended.
    """
    if not prompts or not all(prompts):
        raise UserError("a prompt needs at least one token")
    if max_tokens < 1:
        raise UserError(f"max_tokens = {max_tokens}: must be at least 1")
    config, params = arrange(config, params)
    batch = side_by_side(prompts)
    context = rounded(int(batch.lengths.max()) + max_tokens)
    key = jax.random.key(seed)
    if stats is not None:
        began = time.perf_counter()
        _compile(config, sampling, stop_token, params, batch, context, key)
        stats.begin(config, batch.lengths, context, compile_seconds=time.perf_counter() - began)
    for block in _blocks(config, sampling, stop_token, params, batch, context, key, max_tokens):
        for column in np.asarray(block).T:
            if (column < 0).all():
                return
            if stats is not None:
                stats.count(column)
            yield column


def _blocks(
    config: ModelConfig,
    sampling: Sampling,
    stop_token: int | None,
    params: Params,
    prompts: Prompts,
    context: int,
    key: jax.Array,
    max_tokens: int,
) -> Iterator[jax.Array]:
    """The tokens made [B, n]; -1 after the end of a sequence, and after max_tokens."""
    cache, hidden = prefill(config, params, prompts, context)
    first, sequences = _first(config, sampling, stop_token, params, cache, hidden, prompts.lengths, key)
    yield first
    made, ready = 1, None
    while made < max_tokens:
        count = min(DECODE_BLOCK, max_tokens - made)
        tokens, sequences = decode(config, sampling, stop_token, params, sequences, key, count)
        if ready is not None:
            yield ready  # while the device makes the next ones
        made, ready = made + count, tokens
    if ready is not None:
        yield ready


def side_by_side(prompts: Sequence[Sequence[int]]) -> Prompts:
    """Pads prompts to one of few lengths and cuts them into chunks."""
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    longest = int(lengths.max())
    whole, rest = divmod(longest, PREFILL_CHUNK)
    sizes = [PREFILL_CHUNK] * whole
    if rest:
        sizes.append(min(PREFILL_CHUNK, max(SHORTEST_CHUNK, 1 << (rest - 1).bit_length())))
    ends = np.cumsum(sizes).tolist()
    tokens = np.zeros((len(prompts), ends[-1]), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    places = np.arange(ends[-1], dtype=np.int32)
    chunks = tuple(slice(end - size, end) for end, size in zip(ends, sizes, strict=True))
    return Prompts(tokens, np.where(places < lengths[:, None], places, np.int32(-1)), lengths, chunks)


def rounded(context: int) -> int:
    """The next of the contexts for which caches are made: eight for each doubling, so that few are compiled."""
    step = max(16, 1 << max(0, (context - 1).bit_length() - 4))
    return -(-context // step) * step


def prefill(config: ModelConfig, params: Params, prompts: Prompts, context: int) -> tuple[Caches, jax.Array]:
    """Reads prompts into caches for sequences of at most `context` tokens.

    Returns:
      The caches and the normalised state of each prompt's last token [B, d_model].
    """
    cache, hidden = empty_state(config, params, len(prompts.lengths), context)
    for chunk in prompts.chunks:
        hidden, cache = _read(config, params, prompts.tokens[:, chunk], prompts.positions[:, chunk], hidden, cache)
    return cache, hidden


def empty_state(config: ModelConfig, params: Params, batch: int, context: int) -> tuple[Caches, jax.Array]:
    """Caches without tokens, and states [B, d_model] of zeros, where the parameters are."""
    state = (
        model.empty_cache(config, batch, context),
        jnp.zeros((batch, config.d_model), jnp.dtype(config.compute_dtype)),
    )
    # Where the parameters are: an array that may be moved and one that may not are compiled for apart.
    devices = params["embedding"].sharding.device_set
    return jax.device_put(state, next(iter(devices))) if len(devices) == 1 else state


@partial(jax.jit, static_argnums=0, donate_argnums=5)
def _read(
    config: ModelConfig, params: Params, tokens: jax.Array, positions: jax.Array, hidden: jax.Array, cache: Caches
) -> tuple[jax.Array, Caches]:
    """Reads a chunk [B, S]; the state of a row stays where the chunk holds no token of it."""
    states, cache = model.bind(config, params).extend(tokens, positions, cache)
    real = (positions >= 0).sum(axis=1)
    last = jnp.take_along_axis(states, jnp.maximum(real - 1, 0)[:, None, None], axis=1)[:, 0]
    return jnp.where((real > 0)[:, None], last, hidden), cache


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def _first(
    config: ModelConfig,
    sampling: Sampling,
    stop_token: int | None,
    params: Params,
    cache: Caches,
    hidden: jax.Array,
    lengths: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, Sequences]:
    """Draws the first token after the prompts [B, 1]; -1 where that ends it."""
    token = _draw(model.bind(config, params).logits(hidden), lengths, key, sampling)
    done = _stops(token, stop_token)
    return jnp.where(done, -1, token)[:, None], Sequences(cache, token, lengths + 1, done)


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def decode(
    config: ModelConfig,
    sampling: Sampling,
    stop_token: int | None,
    params: Params,
    sequences: Sequences,
    key: jax.Array,
    count: jax.Array,
) -> tuple[jax.Array, Sequences]:
    """Makes the next `count` tokens of each sequence: [B, DECODE_BLOCK], -1 after its end and after `count`."""
    transformer = model.bind(config, params)

    def go_on(carry: tuple[jax.Array, jax.Array, Sequences]) -> jax.Array:
        made, _, sequences = carry
        return (made < count) & ~sequences.done.all()

    def step(carry: tuple[jax.Array, jax.Array, Sequences]) -> tuple[jax.Array, jax.Array, Sequences]:
        made, tokens, (cache, token, length, done) = carry
        positions = jnp.where(done, -1, length - 1)[:, None]
        states, cache = transformer.extend(jnp.where(done, 0, token)[:, None], positions, cache)
        token = _draw(transformer.logits(states[:, 0]), length, key, sampling)
        length = jnp.where(done, length, length + 1)
        done |= _stops(token, stop_token)
        tokens = tokens.at[made].set(jnp.where(done, -1, token))
        return made + 1, tokens, Sequences(cache, token, length, done)

    tokens = jnp.full((DECODE_BLOCK, len(sequences.token)), -1, jnp.int32)
    _, tokens, sequences = jax.lax.while_loop(go_on, step, (jnp.int32(0), tokens, sequences))
    return tokens.T, sequences


def _draw(logits: jax.Array, length: jax.Array, key: jax.Array, sampling: Sampling) -> jax.Array:
    """The next token [B] of sequences of `length` tokens."""

    # A row's draws depend on how many tokens it has, not on how the loop is cut into blocks.
    def draw(logits: jax.Array, row: jax.Array, length: jax.Array) -> jax.Array:
        own = jax.random.fold_in(jax.random.fold_in(key, row), length)
        return sample(logits[None], own, sampling)[0]

    return jax.vmap(draw)(logits, jnp.arange(len(length)), length)


def _stops(token: jax.Array, stop_token: int | None) -> jax.Array:
    return jnp.zeros(token.shape, bool) if stop_token is None else token == stop_token


def _compile(
    config: ModelConfig,
    sampling: Sampling,
    stop_token: int | None,
    params: Params,
    prompts: Prompts,
    context: int,
    key: jax.Array,
) -> None:
    """Compiles what `generate` will run; jit finds it then."""
    cache, hidden = empty_state(config, params, len(prompts.lengths), context)
    for chunk in {chunk.stop - chunk.start: chunk for chunk in prompts.chunks}.values():
        tokens, positions = prompts.tokens[:, chunk], prompts.positions[:, chunk]
        _read.lower(config, params, tokens, positions, hidden, cache).compile()
    settings = (config, sampling, stop_token, params)
    _first.lower(*settings, cache, hidden, prompts.lengths, key).compile()
    _, sequences = _first(*settings, cache, hidden, prompts.lengths, key)
    decode.lower(*settings, sequences, key, 1).compile()
