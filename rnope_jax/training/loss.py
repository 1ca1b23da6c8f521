"""Next-token cross-entropy, fused with the output projection so that the full logits never exist."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rnope_jax.data.packing import Batch
from rnope_jax.model import Transformer
from rnope_jax.model.chunks import join, split
from rnope_jax.model.linear import project
from rnope_jax.sharding import RULES, partition


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

    The backward pass recomputes each chunk's logits and adds up the gradient of the table in
    float32. On a mesh every device does so for its own tokens: the table is gathered once and its
    gradient is summed over devices once, not for every chunk.

    Args:
      hidden: last normalised states [B, S, d_model].
      table: output embedding [vocab, d_model], float32.
      targets: [B, S].
      mask: weight of each token [B, S].
      logit_factor: factor on the logits.
      chunk: positions per row (of the part of a row that a device holds) and chunk.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        sums = _token_sums(hidden, table, targets, mask, (), logit_factor, chunk)
        return LossSums(*(part.sum() for part in sums))
    tokens = partition(("batch", "sequence"))
    over = (*RULES["batch"], *RULES["sequence"])
    # `tensor`, which splits the vocabulary, is left to XLA.
    local = jax.shard_map(
        lambda *arrays: _token_sums(*arrays, RULES["embed"], logit_factor, chunk),
        in_specs=(PartitionSpec(*tokens, None), PartitionSpec(None, RULES["embed"]), tokens, tokens),
        out_specs=(PartitionSpec(over),) * 3,
        axis_names=set(over),
        check_vma=False,
    )
    return LossSums(*(part.sum() for part in local(hidden, table, targets, mask)))


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _token_sums(
    hidden: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    gathered: tuple[str, ...],
    factor: float,
    chunk: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The three sums [1] over the tokens of one device.

    `table` is split over the mesh axes `gathered` along d_model.
    """
    whole = _gather(table, gathered, hidden.dtype)

    def step(total: Any, part: Any) -> tuple[Any, None]:
        states, targets, mask = part
        logits = project(states, whole.T, result_type=jnp.float32) * factor
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        sums = ((normaliser - chosen) * mask).sum(), (normaliser**2 * mask).sum(), mask.sum()
        return jax.tree.map(jnp.add, total, sums), None

    zero = jnp.zeros((), jnp.float32)
    total, _ = jax.lax.scan(step, (zero, zero, zero), _chunks((hidden, targets, mask), chunk))
    return total[0][None], total[1][None], total[2][None]


def _forward(
    hidden: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    gathered: tuple[str, ...],
    factor: float,
    chunk: int,
) -> tuple[Any, Any]:
    arguments = hidden, table, targets, mask
    return _token_sums(*arguments, gathered, factor, chunk), arguments


def _backward(gathered: tuple[str, ...], factor: float, chunk: int, residuals: Any, gradients: Any) -> tuple:
    hidden, table, targets, mask = residuals
    whole = _gather(table, gathered, hidden.dtype)
    d_nll, d_z, _ = (gradient[0] for gradient in gradients)

    def step(d_table: jax.Array, part: Any) -> tuple[jax.Array, jax.Array]:
        states, targets, mask = part
        logits = project(states, whole.T, result_type=jnp.float32) * factor
        normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        # d nll = softmax - onehot, d z = 2 normaliser softmax.
        slope = jnp.exp(logits - normaliser) * (d_nll + 2 * d_z * normaliser)
        hit = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == targets[..., None]
        d_logits = (jnp.where(hit, slope - d_nll, slope) * (mask[..., None] * factor)).astype(hidden.dtype)
        d_states = project(d_logits, whole)
        rows, width = d_logits.reshape(-1, d_logits.shape[-1]), states.reshape(-1, states.shape[-1])
        return d_table + jnp.matmul(rows.T, width, preferred_element_type=jnp.float32), d_states

    start = jnp.zeros(whole.shape, jnp.float32)
    d_table, d_hidden = jax.lax.scan(step, start, _chunks((hidden, targets, mask), chunk))
    if gathered:
        d_table = jax.lax.psum_scatter(d_table, gathered, scatter_dimension=1, tiled=True)
    return join(d_hidden, hidden.shape[1]), d_table, None, None


_token_sums.defvjp(_forward, _backward)


def _gather(table: jax.Array, axes: tuple[str, ...], dtype: jnp.dtype) -> jax.Array:
    table = table.astype(dtype)
    return jax.lax.all_gather(table, axes, axis=1, tiled=True) if axes else table


def _chunks(arrays: tuple[jax.Array, ...], chunk: int) -> tuple[jax.Array, ...]:
    """Arrays [B, S, ...] as [count, B, chunk, ...]; what pads them weighs nothing."""
    return tuple(split(x, min(chunk, x.shape[1])) for x in arrays)


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
