"""Continuing texts: prompts are read in chunks, then tokens are made in a compiled loop."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnope_jax import model
from rnope_jax.config import ModelConfig
from rnope_jax.errors import UserError
from rnope_jax.inference.sampling import GREEDY, Sampling, sample
from rnope_jax.model import Caches, Params

#: Prompt tokens that are read at a time: bounds the memory of long prompts.
PREFILL_CHUNK = 256

#: Tokens made per call of the compiled loop; between calls they are handed out.
DECODE_BLOCK = 16


class Sequences(NamedTuple):
    """Sequences that are being continued."""

    cache: Caches
    hidden: jax.Array
    """[B, d_model]: state of the last token of each."""
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
) -> Iterator[np.ndarray]:
    """Continues prompts of any lengths.

    Args:
      config: the model.
      params: its parameters.
      prompts: tokens of each prompt, at least one.
      max_tokens: most tokens to make for each.
      sampling: how tokens are drawn.
      stop_token: ends a sequence; None never does.
      seed: of the draws; the same seed gives the same tokens.

    Yields:
      The next token of every prompt [B], as soon as it is there; -1 where a sequence has ended.
    """
    if not prompts or not all(prompts):
        raise UserError("a prompt needs at least one token")
    if max_tokens < 1:
        raise UserError(f"max_tokens = {max_tokens}: must be at least 1")
    longest = max(len(prompt) for prompt in prompts)
    sequences = prefill(config, params, prompts, longest + max_tokens)
    key = jax.random.key(seed)
    made = 0
    while made < max_tokens:
        tokens, sequences = _decode(config, sampling, stop_token, params, sequences, key)
        for column in np.asarray(tokens).T[: max_tokens - made]:
            if (column < 0).all():
                return
            yield column
        made += DECODE_BLOCK


def prefill(config: ModelConfig, params: Params, prompts: Sequence[Sequence[int]], context: int) -> Sequences:
    """Reads prompts into caches for sequences of at most `context` tokens."""
    lengths = np.array([len(prompt) for prompt in prompts])
    chunk = min(PREFILL_CHUNK, int(lengths.max()))
    padded = -(-int(lengths.max()) // chunk) * chunk
    tokens = np.zeros((len(prompts), padded), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    places = np.arange(padded, dtype=np.int32)
    positions = np.where(places < lengths[:, None], places, -1)

    # Rows past the end of the context would have no slot: the last block of decoding may run over it.
    cache = model.empty_cache(config, len(prompts), context + DECODE_BLOCK)
    hidden = jnp.zeros((len(prompts), config.d_model), jnp.dtype(config.compute_dtype))
    for start in range(0, padded, chunk):
        part = slice(start, start + chunk)
        hidden, cache = _read(config, params, tokens[:, part], positions[:, part], hidden, cache)
    return Sequences(cache, hidden, jnp.asarray(lengths, jnp.int32), jnp.zeros(len(prompts), bool))


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
def _decode(
    config: ModelConfig,
    sampling: Sampling,
    stop_token: int | None,
    params: Params,
    sequences: Sequences,
    key: jax.Array,
) -> tuple[jax.Array, Sequences]:
    """Makes the next DECODE_BLOCK tokens of each sequence: [B, DECODE_BLOCK], -1 after its end."""
    transformer = model.bind(config, params)

    def step(sequences: Sequences, _: None) -> tuple[Sequences, jax.Array]:
        cache, hidden, length, done = sequences
        # A row's draws depend on how many tokens it has, not on how the loop is cut into blocks.
        keys = jax.vmap(lambda row, n: jax.random.fold_in(jax.random.fold_in(key, row), n))(
            jnp.arange(len(length)), length
        )
        draw: Any = jax.vmap(lambda logits, key: sample(logits[None], key, sampling)[0])
        token = draw(transformer.logits(hidden), keys)
        if stop_token is not None:
            done |= token == stop_token
        positions = jnp.where(done, -1, length)[:, None]
        states, cache = transformer.extend(jnp.where(done, 0, token)[:, None], positions, cache)
        return Sequences(cache, states[:, 0], jnp.where(done, length, length + 1), done), jnp.where(done, -1, token)

    sequences, tokens = jax.lax.scan(step, sequences, length=DECODE_BLOCK)
    return tokens.T, sequences
