"""Next-token cross-entropy, fused with the output projection so that the full logits never exist."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnope_jax.data.packing import Batch
from rnope_jax.model import Transformer
from rnope_jax.model.linear import project
from rnope_jax.sharding import constrain, context_parts


class LossSums(NamedTuple):
    """Sums over tokens, so that batches of any size can be added before a mean is taken."""

    nll: jax.Array
    """Negative log-likelihood in nats."""
    z: jax.Array
    """Squared log-normalisers."""
    weight: jax.Array
    """Sum of the loss mask."""


def cross_entropy(
    hidden: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    *,
    logit_factor: float,
    chunk: int,
) -> LossSums:
    """Sums of the loss over tokens; logits exist for `chunk` positions per row at a time.

    The backward pass recomputes each chunk's logits. Chunks run along the sequence, so a batch that
    is split over devices stays split.

    Args:
      hidden: last normalised states [B, S, d_model].
      table: output embedding [vocab, d_model], float32.
      targets: [B, S].
      mask: weight of each token [B, S].
      logit_factor: factor on the logits.
      chunk: positions per row and chunk.
    """
    parts = context_parts()
    length = targets.shape[1] // parts
    chunk = min(chunk, length)
    count = -(-length // chunk)
    padding = count * chunk - length

    def split(x: jax.Array) -> jax.Array:
        """[B, S, ...] to [count, B, parts, chunk, ...]: a chunk holds some tokens of every device's part of the row."""
        x = x.reshape(x.shape[0], parts, length, *x.shape[2:])
        x = jnp.pad(x, [(0, 0), (0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 3))
        return jnp.moveaxis(x.reshape(*x.shape[:2], count, chunk, *x.shape[3:]), 2, 0)

    # The table is cast inside, so that its gradient is summed over chunks in float32.
    @partial(jax.checkpoint, prevent_cse=False)
    def sums(hidden: jax.Array, targets: jax.Array, mask: jax.Array, table: jax.Array) -> LossSums:
        hidden = constrain(hidden, "batch", "sequence", None, None)
        logits = project(hidden, table.T, result_type=jnp.float32) * logit_factor
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return LossSums(
            nll=((normaliser - chosen) * mask).sum(),
            z=(normaliser**2 * mask).sum(),
            weight=mask.sum(),
        )

    def step(total: LossSums, part: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[LossSums, None]:
        return jax.tree.map(jnp.add, total, sums(*part, table)), None

    zero = jnp.zeros((), jnp.float32)
    total, _ = jax.lax.scan(step, LossSums(zero, zero, zero), (split(hidden), split(targets), split(mask)))
    return total


def batch_loss(model: Transformer, batch: Batch, chunk: int) -> LossSums:
    """Sums of the loss of a model over a batch."""
    hidden = model.hidden(batch.tokens, positions=batch.positions, segment_ids=batch.segment_ids)
    return cross_entropy(
        hidden,
        model.embedding[...],
        batch.targets,
        batch.loss_mask,
        logit_factor=model.config.logit_factor,
        chunk=chunk,
    )
