"""The model's layers written a second time, in plain numpy and loops, from the definition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnope_jax.config import ModelConfig
from rnope_jax.layers import LayerKind
from rnope_jax.model import Params
from rnope_jax.model.block import Block, Rows
from rnope_jax.model.rope import rotation


def rows_of(
    config: ModelConfig, positions: jax.Array, segment_ids: jax.Array | None = None, thetas: tuple[float, ...] = ()
) -> Rows:
    """What layers know of these tokens; also rotations for `thetas`, which layers of other kinds would use."""
    thetas = {*thetas, *(kind.rope_theta for kind in config.pattern if kind.rope_theta is not None)}
    return Rows(positions, segment_ids, {theta: rotation(positions, theta, config.head_dim) for theta in thetas})


def layer_params(config: ModelConfig, params: Params, layer: int) -> Params:
    """The parameters of one layer, cut out of the stacks by hand."""
    period, slot = divmod(layer, len(config.pattern))
    if period < config.num_layers // len(config.pattern):
        prefix = f"periods.{slot}."
        return {name.removeprefix(prefix): x[period] for name, x in params.items() if name.startswith(prefix)}
    prefix = f"remainder.{slot}."
    return {name.removeprefix(prefix): x for name, x in params.items() if name.startswith(prefix)}


def single_block(config: ModelConfig, kind: LayerKind, params: Params) -> Block:
    """One unstacked block with these parameters."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Block(config, kind, rngs=nnx.Rngs(0))))
    flat = [(path, variable.replace(params[".".join(path)])) for path, variable in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(flat))


def unrolled(config: ModelConfig, params: Params, tokens: jax.Array, rows: Rows) -> list[jax.Array]:
    """The residual stream before each layer and after the last, by a plain loop over single blocks."""
    h = params["embedding"][tokens]
    stream = [h]
    for layer in range(config.num_layers):
        kind = config.pattern[layer % len(config.pattern)]
        h, _ = single_block(config, kind, layer_params(config, params, layer))(h, rows)
        stream.append(h)
    return stream


def layer_norm(x: Any, weight: Any, eps: float) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight


def rotate(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Channel pairs as complex numbers, turned by position x theta^(-2i/D)."""
    dim = x.shape[-1]
    z = x[..., 0::2] + 1j * x[..., 1::2]
    z = z * np.exp(1j * positions[..., None, None] * theta ** (-np.arange(0, dim, 2) / dim))
    return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)


def attention(
    config: ModelConfig, kind: LayerKind, params: dict[str, Any], x: Any, positions: Any, segments: Any
) -> np.ndarray:
    """An attention layer [B, S, d_model], query by query, in float64."""
    params = _own(params)
    x = np.asarray(x, np.float64)
    v = np.einsum("bsm,mhd->bshd", x, params["value"])
    share = config.num_heads // config.num_kv_heads
    weights = attention_weights(config, kind, params, x, positions, segments)
    mixed = np.einsum("bhst,bthd->bshd", weights, np.repeat(v, share, axis=2))
    return np.einsum("bshd,hdm->bsm", mixed, params["output"])


def attention_weights(
    config: ModelConfig, kind: LayerKind, params: dict[str, Any], x: Any, positions: Any, segments: Any
) -> np.ndarray:
    """What each query gives to each key [B, H, S, S], query by query, in float64."""
    params = _own(params)
    x, positions, segments = np.asarray(x, np.float64), np.asarray(positions), np.asarray(segments)
    q, k = (np.einsum("bsm,mhd->bshd", x, params[name]) for name in ("query", "key"))
    if kind.qk_norm:
        q = layer_norm(q, params["query_norm.scale"], config.norm_eps)
        k = layer_norm(k, params["key_norm.scale"], config.norm_eps)
    if kind.rope_theta is not None:
        q, k = rotate(q, positions, kind.rope_theta), rotate(k, positions, kind.rope_theta)
    batch, length, heads = q.shape[:3]
    found = np.zeros((batch, heads, length, length))
    share = config.num_heads // config.num_kv_heads
    for b, i, h in np.ndindex(batch, length, heads):
        first = 0 if kind.window is None else max(0, i - kind.window + 1)
        seen = [j for j in range(first, i + 1) if segments[b, j] == segments[b, i]]
        logits = k[b, seen, h // share] @ q[b, i, h] / np.sqrt(config.head_dim)
        if kind.log_scaling is not None:
            base = kind.log_scaling.base
            logits = logits * np.log(base + positions[b, i]) / np.log(base)
        weights = np.exp(logits - logits.max())
        found[b, h, i, seen] = weights / weights.sum()
    return found


def _own(params: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("attention."): np.asarray(p, np.float64) for name, p in params.items()}


def block(config: ModelConfig, kind: LayerKind, params: dict[str, Any], h: Any, positions: Any, segments: Any) -> Any:
    """h + attention(norm(h)) + mlp(norm(h))."""
    h = np.asarray(h, np.float64)
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    x = layer_norm(h, p["norm.scale"], config.norm_eps)
    gate = x @ p["mlp.gate"]
    feed_forward = (gate / (1 + np.exp(-gate)) * (x @ p["mlp.up"])) @ p["mlp.down"]
    own = {name: value for name, value in p.items() if name.startswith("attention.")}
    return h + attention(config, kind, own, x, positions, segments) + feed_forward


def positions_from_zero(batch: int, length: int) -> jax.Array:
    return jnp.broadcast_to(jnp.arange(length), (batch, length))
