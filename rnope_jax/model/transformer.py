"""The decoder: embedding, a scan over whole periods of the layer pattern, the remainder, the head.

The layers of one slot of the pattern (every first layer of a period, every second, ...) are alike,
so their parameters are stored stacked, and one `lax.scan` runs all periods: compile time does not
grow with depth. Layers after the last whole period follow unrolled.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from rnope_jax.attention import SAVED, AttentionSpec
from rnope_jax.config import ModelConfig
from rnope_jax.layers import Pattern
from rnope_jax.model import cache as caches
from rnope_jax.model import sequential
from rnope_jax.model.block import Block, Rows
from rnope_jax.model.linear import project
from rnope_jax.model.norm import LayerNorm
from rnope_jax.model.parameters import embedding
from rnope_jax.model.rope import rotation
from rnope_jax.sharding import constrain

#: Caches of a model: one per slot of the pattern, stacked over its periods, then one per remaining layer.
Caches = tuple[tuple[caches.LayerCache, ...], tuple[caches.LayerCache, ...]]

#: Name of what a layer is given, by which it can be kept elsewhere.
_INPUT = "layer_input"

#: What an observer makes of a layer.
Observation = TypeVar("Observation")


class Transformer(nnx.Module):
    """A language model of Cohere's parallel blocks with any pattern of layer kinds."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = embedding(rngs, (config.vocab_size, config.d_model), ("vocab", "embed"), std=config.init_std)
        slots = config.pattern if config.num_periods else ()
        self.periods = nnx.List([Block(config, kind, rngs=rngs, stack=config.num_periods) for kind in slots])
        self.remainder = nnx.List([Block(config, kind, rngs=rngs) for kind in config.remainder])
        self.norm = LayerNorm((config.d_model,), (None,), config.norm_eps)

    def __call__(
        self, tokens: jax.Array, *, positions: jax.Array | None = None, segment_ids: jax.Array | None = None
    ) -> jax.Array:
        """Logits [B, S, vocab_size] in float32; arguments as `hidden`. Training never makes them whole."""
        return self.logits(self.hidden(tokens, positions=positions, segment_ids=segment_ids))

    def hidden(
        self, tokens: jax.Array, *, positions: jax.Array | None = None, segment_ids: jax.Array | None = None
    ) -> jax.Array:
        """The normalised last residual stream [B, S, d_model].

        Args:
          tokens: [B, S].
          positions: position of each token in its document [B, S]; None counts from 0 in each row.
          segment_ids: document of each token [B, S]; None takes each row as one document.
        """
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        rows = self._rows(positions, segment_ids)
        h = self._embed(tokens)
        graphs, states = _split(self.periods)

        def period(h: jax.Array, states: Sequence[Any]) -> tuple[jax.Array, None]:
            for graph, state in zip(graphs, states, strict=True):
                h = self._remat(graph, in_loop=self.config.num_periods > 1)(state, h, rows)
            return h, None

        if graphs and self.config.remat == "sequential":
            h = sequential.run(tuple(graphs), states, h, rows)
        elif graphs:
            h, _ = jax.lax.scan(period, h, states)
        for graph, state in zip(*_split(self.remainder), strict=True):
            h = self._remat(graph, in_loop=False)(state, h, rows)
        return self.norm(h)

    def extend(self, tokens: jax.Array, positions: jax.Array, cache: Caches) -> tuple[jax.Array, Caches]:
        """Continues cached sequences.

        Args:
          tokens: the next tokens of each row [B, S].
          positions: their positions [B, S], rising along each row; -1 marks padding.
          cache: from `empty_cache` or an earlier call.

        Returns:
          The normalised last residual stream [B, S, d_model] and the extended cache.
        """
        rows = self._rows(positions, None)
        h = self._embed(tokens)
        graphs, states = _split(self.periods)
        stacked, single = cache

        # The caches travel in the carry and are updated in place; as inputs and outputs of the scan
        # they would be copied whole.
        def period(carry: tuple, step: tuple) -> tuple[tuple, None]:
            h, stacked = carry
            index, states = step
            updated = []
            for graph, state, slot in zip(graphs, states, stacked, strict=True):
                layer = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), slot)
                h, layer = nnx.merge(graph, state)(h, rows, layer)
                put = partial(jax.lax.dynamic_update_index_in_dim, index=index, axis=0)
                updated.append(jax.tree.map(put, slot, layer))
            return (h, tuple(updated)), None

        if graphs:
            (h, stacked), _ = jax.lax.scan(period, (h, stacked), (jnp.arange(self.config.num_periods), states))
        updated = []
        for block, layer in zip(self.remainder, single, strict=True):
            h, layer = block(h, rows, layer)
            updated.append(layer)
        return self.norm(h), (stacked, tuple(updated))

    def observe(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        cache: Caches,
        look: Callable[[AttentionSpec, jax.Array, caches.LayerCache], Observation],
    ) -> list[Observation]:
        """What every layer compares when cached sequences are continued, layer by layer in order.

        Args:
          tokens: as for `extend`.
          positions: as for `extend`.
          cache: as for `extend`; is not extended.
          look: is given what a layer computes, its queries [B, S, H, D] and slots that hold at least
            every key that one of them sees.

        Returns:
          What `look` made of each layer. No layer is in a scan, so compile time grows with depth.
        """
        rows, h, found = self._rows(positions, None), self._embed(tokens), []
        for block, layer in self._layers(cache):
            attention = block.attention
            q, k, v = attention.qkv(block.norm(h), rows)
            _, seen = caches.extend(layer, k, v, positions, attention.kind.window)
            found.append(look(attention.spec, q, seen))
            h, _ = block(h, rows, layer)
        return found

    def _layers(self, cache: Caches) -> Iterator[tuple[Block, caches.LayerCache]]:
        """Every layer with its cache, taken out of the stacks."""
        stacked, single = cache
        graphs, states = _split(self.periods)
        for index in range(self.config.num_periods):
            for graph, state, slot in zip(graphs, states, stacked, strict=True):
                state, layer = jax.tree.map(lambda x: x[index], (state, slot))  # noqa: B023 (called at once)
                yield nnx.merge(graph, state), layer
        yield from zip(self.remainder, single, strict=True)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Output logits [..., vocab_size] of normalised states [B, ..., d_model], in float32."""
        return project(hidden, self.embedding[...].T, result_type=jnp.float32) * self.config.logit_factor

    def _embed(self, tokens: jax.Array) -> jax.Array:
        dtype = jnp.dtype(self.config.compute_dtype)
        return constrain(self.embedding[...][tokens].astype(dtype), "batch", "sequence", None)

    def _rows(self, positions: jax.Array, segment_ids: jax.Array | None) -> Rows:
        thetas = {kind.rope_theta for kind in self.config.layer_kinds if kind.rope_theta is not None}
        rotations = {theta: rotation(positions, theta, self.config.head_dim) for theta in sorted(thetas)}
        return Rows(positions, segment_ids, rotations)

    def _remat(self, graph: Any, *, in_loop: bool) -> Callable[[Any, jax.Array, Rows], jax.Array]:
        def layer(state: Any, h: jax.Array, rows: Rows) -> jax.Array:
            return nnx.merge(graph, state)(checkpoint_name(h, _INPUT), rows)[0]

        if self.config.remat == "none":
            return layer
        policies = jax.checkpoint_policies
        attention = policies.save_only_these_names(SAVED)
        policy = {
            "full": None,
            "sequential": None,
            "attention": attention,
            # A layer that is not in the loop is wanted back almost at once: there is no use in moving it.
            "offload": policies.save_and_offload_only_these_names(
                names_which_can_be_saved=[],
                names_which_can_be_offloaded=[_INPUT, SAVED],
                offload_src="device",
                offload_dst="pinned_host",
            )
            if in_loop
            else attention,
        }[self.config.remat]
        # Inside a loop nothing can be merged across layers, so the barrier against it is not needed. A scan of one
        # period is no loop: the compiler unrolls it.
        return jax.checkpoint(layer, prevent_cse=not in_loop, policy=policy)


def empty_cache(config: ModelConfig, batch: int, context: int) -> Caches:
    """Caches for `batch` sequences of at most `context` tokens."""
    dtype = jnp.dtype(config.compute_dtype)

    def make(pattern: Pattern) -> tuple[caches.LayerCache, ...]:
        return tuple(
            caches.empty(kind, batch, context, config.num_kv_heads, config.head_dim, dtype) for kind in pattern
        )

    def stack(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(x, (config.num_periods, *x.shape))

    slots = config.pattern if config.num_periods else ()
    return jax.tree.map(stack, make(slots)), make(config.remainder)


def _split(blocks: Sequence[Block]) -> tuple[list[Any], list[Any]]:
    pairs = [nnx.split(block) for block in blocks]
    return [graph for graph, _ in pairs], [state for _, state in pairs]
