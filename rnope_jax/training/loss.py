"""Next-token cross-entropy, fused with the output projection so that the full logits never exist."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rnope_jax.config import LossConfig
from rnope_jax.data.packing import Batch
from rnope_jax.model import Transformer
from rnope_jax.model.chunks import join, split
from rnope_jax.model.linear import matmul, project
from rnope_jax.sharding import RULES, partition


class LossSums(NamedTuple):
    """Sums over tokens, so that batches of any size can be added before a mean is taken."""

    objective: jax.Array
    """What is minimised: nll + z_loss z. It alone has a gradient; the others are constants to `jax.grad`."""
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
    z_loss: float = 0.0,
) -> LossSums:
    """Sums of the loss over tokens; logits exist for `chunk` positions per row at a time.

    Where a gradient is wanted it is computed along with the loss, while a chunk's logits are there: so
    they are computed once. The gradient of the table is added up in float32. On a mesh every device does
    so for its own tokens: the table is gathered once and its gradient is summed over devices once, not
    for every chunk.

    Args:
      hidden: last normalised states [B, S, d_model].
      table: output embedding [vocab, d_model], float32.
      targets: [B, S].
      mask: weight of each token [B, S].
      logit_factor: factor on the logits.
      chunk: positions per row (of the part of a row that a device holds) and chunk.
      z_loss: weight of the squared log-normalisers in the objective.
    """
    settings = _Settings(logit_factor, z_loss, chunk)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        sums = _token_sums(hidden, table, targets, mask, settings)
        return LossSums(*(part.sum() for part in sums))
    tokens = partition(("batch", "sequence"))
    over = (*RULES["batch"], *RULES["sequence"])
    # `tensor`, which splits the vocabulary, is left to XLA.
    local = jax.shard_map(
        lambda *arrays: _token_sums(*arrays, settings._replace(gathered=RULES["embed"])),
        in_specs=(PartitionSpec(*tokens, None), PartitionSpec(None, RULES["embed"]), tokens, tokens),
        out_specs=PartitionSpec(over),
        axis_names=set(over),
        check_vma=False,
    )
    return LossSums(*(part.sum() for part in local(hidden, table, targets, mask)))


class _Settings(NamedTuple):
    factor: float
    z_loss: float
    chunk: int
    gathered: tuple[str, ...] = ()
    """Axes of the mesh that the table is split over, along d_model."""


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _token_sums(
    hidden: jax.Array, table: jax.Array, targets: jax.Array, mask: jax.Array, settings: _Settings
) -> LossSums:
    """The sums [1] over the tokens of one device."""
    whole = _gather(table, settings.gathered, hidden.dtype)

    def step(total: LossSums, part: Any) -> tuple[LossSums, None]:
        _, sums = _chunk_sums(whole, part, settings)
        return jax.tree.map(jnp.add, total, sums), None

    total, _ = jax.lax.scan(step, _zero(), _chunks((hidden, targets, mask), settings.chunk))
    return total


def _forward(
    hidden: jax.Array, table: jax.Array, targets: jax.Array, mask: jax.Array, settings: _Settings
) -> tuple[LossSums, tuple[jax.Array, jax.Array]]:
    """The sums, and the gradients of the objective: of the states and of the table."""
    whole = _gather(table, settings.gathered, hidden.dtype)

    def step(total: tuple[LossSums, jax.Array], part: Any) -> tuple[tuple[LossSums, jax.Array], jax.Array]:
        (states, targets, mask), (sums, d_table) = part, total
        (logits, normaliser), these = _chunk_sums(whole, part, settings)
        # d nll = softmax - onehot, d z = 2 normaliser softmax.
        slope = jnp.exp(logits - normaliser) * (1 + 2 * settings.z_loss * normaliser)
        hit = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == targets[..., None]
        d_logits = jnp.where(hit, slope - 1, slope) * (mask[..., None] * settings.factor)
        d_logits = d_logits.astype(hidden.dtype)
        rows, width = d_logits.reshape(-1, d_logits.shape[-1]), states.reshape(-1, states.shape[-1])
        d_table += matmul(rows.T, width)
        return (jax.tree.map(jnp.add, sums, these), d_table), project(d_logits, whole)

    start = _zero(), jnp.zeros(whole.shape, jnp.float32)
    (sums, d_table), d_hidden = jax.lax.scan(step, start, _chunks((hidden, targets, mask), settings.chunk))
    if settings.gathered:
        d_table = jax.lax.psum_scatter(d_table, settings.gathered, scatter_dimension=1, tiled=True)
    return sums, (join(d_hidden, hidden.shape[1]), d_table)


def _backward(settings: _Settings, residuals: tuple[jax.Array, jax.Array], gradients: LossSums) -> tuple:
    factor = gradients.objective[0]
    d_hidden, d_table = ((gradient * factor).astype(gradient.dtype) for gradient in residuals)
    return d_hidden, d_table, None, None


_token_sums.defvjp(_forward, _backward)


def _chunk_sums(
    table: jax.Array, part: tuple[jax.Array, jax.Array, jax.Array], settings: _Settings
) -> tuple[tuple[jax.Array, jax.Array], LossSums]:
    """Logits [B, s, vocab] and log-normalisers [B, s, 1] of a chunk (states, targets, mask), and its sums [1]."""
    states, targets, mask = part
    logits = project(states, table.T, result_type=jnp.float32) * settings.factor
    normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    nll, z = (((x[..., 0] * mask).sum()[None]) for x in (normaliser - chosen, normaliser**2))
    return (logits, normaliser), LossSums(nll + settings.z_loss * z, nll, z, mask.sum()[None])


def _zero() -> LossSums:
    return LossSums(*[jnp.zeros(1, jnp.float32)] * len(LossSums._fields))


def _gather(table: jax.Array, axes: tuple[str, ...], dtype: jnp.dtype) -> jax.Array:
    table = table.astype(dtype)
    return jax.lax.all_gather(table, axes, axis=1, tiled=True) if axes else table


def _chunks(arrays: tuple[jax.Array, ...], chunk: int) -> tuple[jax.Array, ...]:
    """Arrays [B, S, ...] as [count, B, chunk, ...]; what pads them weighs nothing."""
    return tuple(split(x, min(chunk, x.shape[1])) for x in arrays)


def batch_loss(model: Transformer, batch: Batch, settings: LossConfig) -> LossSums:
    """Sums of the loss of a model over a batch."""
    hidden = model.hidden(batch.tokens, positions=batch.positions, segment_ids=batch.segment_ids)
    return cross_entropy(
        hidden,
        model.embedding[...],
        batch.targets,
        batch.loss_mask,
        logit_factor=model.config.logit_factor,
        chunk=settings.chunk,
        z_loss=settings.z_loss,
    )
