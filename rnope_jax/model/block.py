"""The Cohere block: one norm, attention and feed-forward side by side, one residual addition.

`h + attention(norm(h)) + mlp(norm(h))`, as in `Cohere2DecoderLayer` of Hugging Face.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from rnope_jax.attention import AttentionSpec, attend, cached, default_scale
from rnope_jax.config import ModelConfig
from rnope_jax.layers import LayerKind
from rnope_jax.model import cache as caches
from rnope_jax.model.chunks import by_chunks
from rnope_jax.model.linear import project
from rnope_jax.model.norm import LayerNorm
from rnope_jax.model.parameters import matrix
from rnope_jax.model.rope import Rotation, rotate
from rnope_jax.sharding import constrain


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """What every layer knows of the tokens that it works on."""

    positions: jax.Array
    """[B, S]: position of each token in its document; -1 marks padding when there is a cache."""
    segment_ids: jax.Array | None
    """[B, S]: document of each token, or None if every row is one document."""
    rotations: dict[float, Rotation]
    """The rotation for each theta that some layer uses."""


class Attention(nnx.Module):
    """Grouped-query attention of one layer kind."""

    def __init__(self, config: ModelConfig, kind: LayerKind, rngs: nnx.Rngs, stack: int | None):
        self.config, self.kind = config, kind
        width, heads, kv_heads, dim = config.d_model, config.num_heads, config.num_kv_heads, config.head_dim
        hidden = hidden_init(config)
        self.query = matrix(rngs, (width, heads, dim), ("embed", "heads", None), inputs=1, stack=stack, **hidden)
        self.key = matrix(rngs, (width, kv_heads, dim), ("embed", "kv_heads", None), inputs=1, stack=stack, **hidden)
        self.value = matrix(rngs, (width, kv_heads, dim), ("embed", "kv_heads", None), inputs=1, stack=stack, **hidden)
        output = output_init(config)
        self.output = matrix(rngs, (heads, dim, width), ("heads", None, "embed"), inputs=2, stack=stack, **output)
        if kind.qk_norm:
            self.query_norm = LayerNorm((heads, dim), ("heads", None), config.norm_eps, stack=stack)
            self.key_norm = LayerNorm((kv_heads, dim), ("kv_heads", None), config.norm_eps, stack=stack)

    @property
    def spec(self) -> AttentionSpec:
        """What this kind of layer computes."""
        return AttentionSpec(scale=default_scale(self.config.head_dim), window=self.kind.window)

    def qkv(self, x: jax.Array, rows: Rows) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries [B, S, H, D], keys and values [B, S, K, D] of `x` [B, S, d_model], as this kind compares them."""
        kind, dtype = self.kind, x.dtype
        q, k, v = (project(x, weight[...]) for weight in (self.query, self.key, self.value))
        if kind.qk_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        if kind.rope_theta is not None:
            q, k = (rotate(heads, rows.rotations[kind.rope_theta]) for heads in (q, k))
        if kind.log_scaling is not None:
            base = kind.log_scaling.base
            factor = jnp.log(base + jnp.maximum(rows.positions, 0)) / math.log(base)
            q = (q * factor[..., None, None]).astype(dtype)
        q = constrain(q, "batch", "sequence", "heads", None)
        k, v = (constrain(heads, "batch", "sequence", "kv_heads", None) for heads in (k, v))
        return q, k, v

    def __call__(
        self, x: jax.Array, rows: Rows, cache: caches.LayerCache | None
    ) -> tuple[jax.Array, caches.LayerCache | None]:
        """Attends from `x` [B, S, d_model] to itself, or to `cache` and itself."""
        kind = self.kind
        q, k, v = self.qkv(x, rows)
        if cache is None:
            mixed = attend(q, k, v, self.spec, segment_ids=rows.segment_ids, backend=self.config.attention)
        else:
            cache, seen = caches.extend(cache, k, v, rows.positions, kind.window)
            mixed = cached.attend(
                q,
                seen.keys,
                seen.values,
                self.spec,
                q_positions=rows.positions,
                k_positions=seen.positions,
                # A full layer fills its slots in order; a ring may hold a token in any slot.
                filled=rows.positions.max() + 1 if kind.window is None else None,
            )
        return project(mixed, self.output[...], inputs=2), cache


class FeedForward(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    INWARD, OUTWARD = ("embed", "mlp"), ("mlp", "embed")

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, stack: int | None):
        width, inner = config.d_model, config.d_ff
        hidden = hidden_init(config)
        self.chunk = config.mlp_chunk
        self.gate = matrix(rngs, (width, inner), self.INWARD, inputs=1, stack=stack, **hidden)
        self.up = matrix(rngs, (width, inner), self.INWARD, inputs=1, stack=stack, **hidden)
        self.down = matrix(rngs, (inner, width), self.OUTWARD, inputs=1, stack=stack, **output_init(config))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, S, d_model] to the same shape."""
        weights = self.gate[...], self.up[...], self.down[...]
        return by_chunks(_swiglu, x, weights, (self.INWARD, self.INWARD, self.OUTWARD), self.chunk)


def _swiglu(x: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    inner = jax.nn.silu(project(x, gate)) * project(x, up)
    return project(constrain(inner, "batch", "sequence", "mlp"), down)


class Block(nnx.Module):
    """One layer; with `stack`, the parameters of that many layers of the same kind."""

    def __init__(self, config: ModelConfig, kind: LayerKind, *, rngs: nnx.Rngs, stack: int | None = None):
        self.norm = LayerNorm((config.d_model,), (None,), config.norm_eps, stack=stack)
        self.attention = Attention(config, kind, rngs, stack)
        self.mlp = FeedForward(config, rngs, stack)

    def __call__(
        self, h: jax.Array, rows: Rows, cache: caches.LayerCache | None = None
    ) -> tuple[jax.Array, caches.LayerCache | None]:
        """Maps the residual stream [B, S, d_model] to the next one, and extends the cache."""
        x = self.norm(h)
        attended, cache = self.attention(x, rows, cache)
        return constrain(h + attended + self.mlp(x), "batch", "sequence", None), cache


def hidden_init(config: ModelConfig) -> dict[str, float]:
    """Initial spread and learning-rate factor of matrices that read the residual stream.

    Under muP (arXiv 2203.03466, table 8) both shrink with the width: the variance and the rate of
    Adam by 1 / m, with m = d_model / mup_base_width.
    """
    ratio = config.width_ratio
    return {"std": config.init_std / math.sqrt(ratio), "learning_rate_scale": 1 / ratio}


def output_init(config: ModelConfig) -> dict[str, float]:
    """As `hidden_init`, for matrices that write to the residual stream: smaller by sqrt(2 x layers)."""
    hidden = hidden_init(config)
    return {**hidden, "std": hidden["std"] / math.sqrt(2 * config.num_layers)}
