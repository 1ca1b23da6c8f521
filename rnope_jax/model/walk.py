"""A model walked through tensor by tensor, to find out where something goes wrong."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnope_jax.model.block import Block, Rows
from rnope_jax.model.transformer import Transformer


def walk(
    model: Transformer, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array
) -> Iterator[tuple[str, jax.Array]]:
    """Name and value of each activation, in the order in which the model computes them.

    One layer at a time exists. Names are those of the modules, with layers counted through: `embedding`,
    `layers.0.norm`, `layers.0.attention`, `layers.0.mlp`, `layers.0` (the residual stream after it), ..., `norm`.

    Args:
      model: what computes.
      tokens: [B, S].
      positions: position of each token in its document [B, S].
      segment_ids: document of each token [B, S].
    """
    rows = model._rows(positions, segment_ids)
    h = model._embed(tokens)
    yield "embedding", h
    for number, block in enumerate(_blocks(model)):
        *inner, h = _layer(*nnx.split(block), h, rows)
        for part, value in zip(("norm", "attention", "mlp"), inner, strict=True):
            yield f"layers.{number}.{part}", value
        yield f"layers.{number}", h
    yield "norm", model.norm(h)


def _blocks(model: Transformer) -> Iterator[Block]:
    """The layers, each with its own parameters."""
    for period in range(model.config.num_periods):
        for block in model.periods:
            graph, state = nnx.split(block)
            yield nnx.merge(graph, jax.tree.map(lambda x, period=period: x[period], state))
    yield from model.remainder


@partial(jax.jit, static_argnums=0)
def _layer(graph: Any, state: Any, h: jax.Array, rows: Rows) -> tuple[jax.Array, ...]:
    block = nnx.merge(graph, state)
    x = block.norm(h)
    attended, _ = block.attention(x, rows, None)
    fed = block.mlp(x)
    return x, attended, fed, h + attended + fed


def all_finite(name: str, value: jax.Array) -> jax.Array:
    """Whether a parameter, or its gradient, is finite throughout: a bool, or one for each layer stacked in it."""
    axes = tuple(range(1, value.ndim)) if name.startswith("periods.") else None
    return jnp.isfinite(value).all(axis=axes)
