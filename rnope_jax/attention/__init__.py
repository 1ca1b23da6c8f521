"""Attention: one definition (`reference`), several backends that compute the same.

A backend is a function with the signature of `reference.attend`. `attend` picks it by name; `auto`
is resolved by `choose`, which start-up reports call too, so that what is printed is what runs.
"""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import jax

from rnope_jax.attention import blockwise, context, cudnn, reference
from rnope_jax.attention.device import is_nvidia, target
from rnope_jax.attention.spec import SAVED, AttentionSpec, default_scale, visible
from rnope_jax.config import ModelConfig
from rnope_jax.errors import UserError
from rnope_jax.sharding import context_parts


def _load_splash() -> ModuleType:
    """The module, imported where it is used: without Pallas a program starts sooner and smaller."""
    return import_module("rnope_jax.attention.splash")


def _splash(*args: Any, **options: Any) -> jax.Array:
    return _load_splash().attend(*args, **options)


def _load_pallas_gpu() -> ModuleType:
    """The module, imported where it is used: not every jax has what compiles its kernels.

    Raises:
      UserError: if this one does not.
    """
    try:
        return import_module("rnope_jax.attention.pallas_gpu")
    except ImportError as error:
        raise UserError(
            f'model.attention = "pallas_gpu" needs jax.experimental.pallas.triton, not found in jax {jax.__version__}; '
            'use jax 0.10.2 to 0.12, or model.attention = "blockwise"'
        ) from error


def _pallas_gpu(*args: Any, **options: Any) -> jax.Array:
    return _load_pallas_gpu().attend(*args, **options)


#: Every backend by name.
BACKENDS: dict[str, Callable[..., jax.Array]] = {
    "reference": reference.attend,
    "blockwise": blockwise.attend,
    "splash": _splash,
    "cudnn": cudnn.attend,
    "pallas_gpu": _pallas_gpu,
}


def choose(
    backend: str, window: int | None, *, packed: bool = True, head_dim: int = 128, dtype: str = "bfloat16"
) -> str:
    """The backend that serves a layer; resolves "auto" for the device in question, as `explain` tells."""
    return explain(backend, window, packed=packed, head_dim=head_dim, dtype=dtype).backend


class Choice(NamedTuple):
    """A backend, and why it is the one."""

    backend: str
    reason: str


def explain(
    backend: str, window: int | None, *, packed: bool = True, head_dim: int = 128, dtype: str = "bfloat16"
) -> Choice:
    """The backend that serves a layer on the device in question, and why.

    For "auto": on TPU it is splash. On an NVIDIA GPU it is pallas_gpu for packed documents, and for rows of one
    document cudnn where that can compute them. Elsewhere it is blockwise. Each serves windows and full attention alike.

    Args:
      backend: a name of `BACKENDS`, or "auto".
      window: keys that a query of the layer sees; None: the whole prefix.
      packed: whether segment ids are given.
      head_dim: channels of a head.
      dtype: type of queries, keys and values.

    Raises:
      UserError: if there is no such backend.
    """
    del window
    if backend == "auto":
        platform, kind = target()
        if platform == "tpu":
            return Choice("splash", "the kernels for TPU, which visit only what the mask lets through")
        if not is_nvidia(platform, kind):
            return Choice("blockwise", f"plain XLA: the kernels are for TPUs and NVIDIA GPUs, and this is {kind}")
        if not cudnn.refusal(packed=packed, head_dim=head_dim, dtype=dtype):
            return Choice("cudnn", "rows of one document, which cuDNN computes")
        cause = "documents are packed, which cuDNN cannot keep apart" if packed else "cuDNN does not take such heads"
        return Choice("pallas_gpu", f"our kernels for NVIDIA GPUs: {cause}")
    if backend not in BACKENDS:
        raise UserError(f"attention backend {backend!r} does not exist: choose auto, {', '.join(BACKENDS)}")
    return Choice(backend, f'model.attention = "{backend}"')


def check(
    backend: str, platform: str, kind: str = "", *, packed: bool = True, head_dim: int = 128, dtype: str = "bfloat16"
) -> None:
    """Checks that a backend runs on a device; the other arguments are those of `choose`.

    Raises:
      UserError: if it does not, or cannot compute such layers.
    """
    if backend == "splash":
        _load_splash().check_platform(platform)
    elif backend == "cudnn":
        cudnn.check_platform(platform, kind)
        if message := cudnn.refusal(packed=packed, head_dim=head_dim, dtype=dtype):
            raise UserError(message)
    elif backend == "pallas_gpu":
        module = _load_pallas_gpu()
        module.check_platform(platform, kind)
        module.check_width(head_dim)


def check_layers(model: ModelConfig, device: jax.Device) -> None:
    """Checks that the layers of a model can be trained on a device, on rows of packed documents.

    Raises:
      UserError: if they cannot.
    """
    backend = choose(model.attention, None)
    check(backend, device.platform, device.device_kind, head_dim=model.head_dim, dtype=model.compute_dtype)


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
    # Rows that are split tell by their segment ids which keys there are not.
    split = context_parts() > 1
    packed = split or segment_ids is not None
    chosen = choose(backend, spec.window, packed=packed, head_dim=q.shape[3], dtype=q.dtype.name)
    if split:
        return context.attend(q, k, v, spec, segment_ids=segment_ids, backend=chosen)
    return BACKENDS[chosen](q, k, v, spec, segment_ids=segment_ids)


__all__ = [
    "BACKENDS",
    "SAVED",
    "AttentionSpec",
    "Choice",
    "attend",
    "check",
    "check_layers",
    "choose",
    "default_scale",
    "explain",
    "visible",
]
