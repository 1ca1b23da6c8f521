"""Scanned layers whose backward pass ends with one branch of a layer before it takes up the next.

In the backward pass of an ordinary scan XLA may begin the layers of a period together: their recomputed activations,
their weights, cut out of the stacks, and their gradients then exist side by side. Here attention and feed-forward of
one layer after another are computed again, take their weights from the stacks and add their gradients to them there.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnope_jax.model.block import Block, Rows
from rnope_jax.sharding import constrain


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def run(graphs: tuple[Any, ...], stacks: Sequence[Any], h: jax.Array, rows: Rows) -> jax.Array:
    """The residual stream after all periods; of each layer its input is kept for the backward pass, nothing else.

    Args:
      graphs: the layers of a period, without parameters.
      stacks: parameters of each of them, stacked over periods.
      h: the residual stream [B, S, d_model].
      rows: what the layers know of the tokens; has no gradient.
    """
    return _forward(graphs, stacks, h, rows)[0]


def _forward(graphs: tuple[Any, ...], stacks: Sequence[Any], h: jax.Array, rows: Rows) -> tuple[jax.Array, tuple]:
    def period(h: jax.Array, index: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        inputs = []
        for graph, stack in zip(graphs, stacks, strict=True):
            inputs.append(h)
            h, _ = nnx.merge(graph, _take(stack, index))(h, rows)
        return h, inputs

    h, inputs = jax.lax.scan(period, h, _numbers(stacks))
    return h, (stacks, inputs, rows)


def _backward(graphs: tuple[Any, ...], kept: tuple, d_out: jax.Array) -> tuple:
    stacks, inputs, rows = kept
    # Always true, which shows only when the program runs. What stands behind a condition begins when it is reached
    # and has ended before its results are used; XLA for CPUs drops barriers before it decides on an order.
    reached = rows.positions[0, 0] > jnp.iinfo(jnp.int32).min

    def period(carry: tuple, step: tuple) -> tuple[tuple, None]:
        (d_out, gradients), (index, inputs) = carry, step
        gradients = list(gradients)
        for slot in reversed(range(len(graphs))):
            d_h = d_out
            for branch in (_feed_forward, _attention):

                def back(
                    d_h: jax.Array, gradient: Any, slot: int = slot, branch: Any = branch, d_out: jax.Array = d_out
                ) -> tuple[jax.Array, Any]:
                    of = partial(branch, graphs[slot], rows)
                    _, pull = jax.vjp(of, _take(stacks[slot], index), inputs[slot])
                    found, more = pull(d_out)
                    return d_h + more, _add(gradient, found, index)

                d_h, gradients[slot] = jax.lax.cond(reached, back, lambda *same: same, d_h, gradients[slot])
            d_out = constrain(d_h, "batch", "sequence", None)
        return (d_out, gradients), None

    zero = jax.tree.map(jnp.zeros_like, list(stacks))
    (d_h, gradients), _ = jax.lax.scan(period, (d_out, zero), (_numbers(stacks), inputs), reverse=True)
    return gradients, d_h, None


run.defvjp(_forward, _backward)


def _attention(graph: Any, rows: Rows, state: Any, h: jax.Array) -> jax.Array:
    block: Block = nnx.merge(graph, state)
    return block.attention(block.norm(h), rows, None)[0]


def _feed_forward(graph: Any, rows: Rows, state: Any, h: jax.Array) -> jax.Array:
    block: Block = nnx.merge(graph, state)
    return block.mlp(block.norm(h))


def _numbers(stacks: Sequence[Any]) -> jax.Array:
    return jnp.arange(len(jax.tree.leaves(stacks)[0]))


def _take(stack: Any, index: jax.Array) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), stack)


def _add(stack: Any, part: Any, index: jax.Array) -> Any:
    # To parameters that a branch does not use zero is added, which XLA leaves out.
    summed = jax.tree.map(jnp.add, _take(stack, index), part)
    return jax.tree.map(lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, index, 0), stack, summed)
