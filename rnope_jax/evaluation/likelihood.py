"""How likely a model finds texts, token by token."""

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnope_jax import model
from rnope_jax.config import ModelConfig
from rnope_jax.evaluation.batches import BATCH_TOKENS, grouped
from rnope_jax.inference.generate import empty_state, rounded, side_by_side
from rnope_jax.inference.layout import arrange
from rnope_jax.model import Caches, Params

#: Bytes of logits that exist at a time.
_LOGITS = 64 * 2**20


class Likelihood(NamedTuple):
    """What a model makes of a text of n tokens."""

    loss: np.ndarray
    """[n - 1]: negative log-likelihood of each token after the first, in nats."""
    greedy: np.ndarray
    """[n - 1]: whether it is the likeliest one there."""


def likelihoods(
    config: ModelConfig,
    params: Params,
    rows: Sequence[Sequence[int]],
    *,
    batch_tokens: int = BATCH_TOKENS,
    done: Collection[int] = (),
) -> Iterator[tuple[tuple[int, ...], list[Likelihood]]]:
    """The likelihood of every token of some rows given those before it, in bounded memory at any length.

    Rows are read in chunks into caches, as prompts are; the full logits never exist.

    Args:
      config: the model.
      params: its parameters.
      rows: tokens of each row, at least two.
      batch_tokens: most tokens that are computed together, unless one row has more.
      done: rows that are known already; they do not change what is computed together.

    Yields:
      As soon as they are known, numbers of rows and their likelihoods.
    """
    config, params = arrange(config, params)
    for group in grouped([len(row) - 1 for row in rows], batch_tokens):
        if all(row in done for row in group.rows):
            continue
        batch = side_by_side([row[:-1] for row in group.fill(rows)])
        targets = np.zeros_like(batch.tokens)
        for number, row in enumerate(group.fill(rows)):
            targets[number, : len(row) - 1] = row[1:]
        cache, _ = empty_state(config, params, group.size, rounded(int(batch.lengths.max())))
        losses, greedy = [], []
        for chunk in batch.chunks:
            loss, hit, cache = _read(
                config, params, batch.tokens[:, chunk], batch.positions[:, chunk], targets[:, chunk], cache
            )
            losses.append(loss)
            greedy.append(hit)
        loss, hit = np.concatenate(losses, axis=1), np.concatenate(greedy, axis=1)
        lengths = batch.lengths[: len(group.rows)]
        yield group.rows, [Likelihood(loss[i, :length], hit[i, :length]) for i, length in enumerate(lengths)]


@partial(jax.jit, static_argnums=0, donate_argnums=5)
def _read(
    config: ModelConfig, params: Params, tokens: jax.Array, positions: jax.Array, targets: jax.Array, cache: Caches
) -> tuple[jax.Array, jax.Array, Caches]:
    """Loss [B, S] of the targets after a chunk of tokens, and whether they are the likeliest [B, S]."""
    transformer = model.bind(config, params)
    states, cache = transformer.extend(tokens, positions, cache)
    rows, length = tokens.shape
    piece = max(1, min(length, _LOGITS // (4 * rows * config.vocab_size)))
    pieces = -(-length // piece)

    def split(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, pieces * piece - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(rows, pieces, piece, *x.shape[2:]), 1, 0)

    def measure(part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        states, targets = part
        logits = transformer.logits(states)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - chosen, logits.argmax(axis=-1) == targets

    loss, hit = jax.lax.map(measure, (split(states), split(targets)))

    def joined(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 1).reshape(rows, -1)[:, :length]

    return joined(loss), joined(hit), cache
