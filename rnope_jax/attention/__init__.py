"""Attention: one definition (`reference`), several backends that compute the same.

A backend is a function with the signature of `reference.attend`. `attend` picks it by name; `auto`
is resolved by `choose`, which start-up reports call too, so that what is printed is what runs.
"""

from collections.abc import Callable

import jax

from rnope_jax.attention import blockwise, context, reference, splash
from rnope_jax.attention.device import target
from rnope_jax.attention.spec import SAVED, AttentionSpec, default_scale, visible
from rnope_jax.errors import UserError
from rnope_jax.sharding import context_parts

#: Every backend by name.
BACKENDS: dict[str, Callable[..., jax.Array]] = {
    "reference": reference.attend,
    "blockwise": blockwise.attend,
    "splash": splash.attend,
}


def choose(backend: str, window: int | None) -> str:
    """The backend that serves a layer with this window; resolves "auto".

    Both splash, on TPU, and blockwise, on every platform, serve every kind.

    Raises:
      UserError: if there is no such backend.
    """
    del window
    if backend == "auto":
        return "splash" if target()[0] == "tpu" else "blockwise"
    if backend not in BACKENDS:
        raise UserError(f"attention backend {backend!r} does not exist: choose auto, {', '.join(BACKENDS)}")
    return backend


def check(backend: str, platform: str) -> None:
    """Checks that a backend runs on a platform.

    Raises:
      UserError: if it does not.
    """
    if backend == "splash":
        splash.check_platform(platform)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    spec: AttentionSpec,
    *,
    segment_ids: jax.Array | None = None,
    backend: str = "auto",
) -> jax.Array:
    """Causal self-attention of whole rows; arguments and result as `reference.attend`.

    On a mesh whose `context` axis splits rows, they are in zigzag order (`context.zigzag`).
    """
    if context_parts() > 1:
        return context.attend(q, k, v, spec, segment_ids=segment_ids, backend=choose(backend, spec.window))
    return BACKENDS[choose(backend, spec.window)](q, k, v, spec, segment_ids=segment_ids)


__all__ = ["BACKENDS", "SAVED", "AttentionSpec", "attend", "check", "choose", "default_scale", "visible"]
