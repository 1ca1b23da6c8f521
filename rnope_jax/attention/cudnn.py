"""Attention on NVIDIA GPUs by cuDNN, through the public function of jax: rows of one document, in half precision.

cuDNN skips what lies outside the window, forward and backward. It is given the causal mask with every window:
with a window alone it would see the future. That function could keep packed documents apart only by a bias of
S x S, so they are refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import jax
from jax.ad_checkpoint import checkpoint_name

from rnope_jax.attention.device import is_nvidia, target
from rnope_jax.attention.shards import per_shard
from rnope_jax.attention.spec import SAVED, AttentionSpec
from rnope_jax.errors import UserError
from rnope_jax.layers import reach

#: Whether XLA computes what cuDNN would be asked for.
_emulated: ContextVar[bool] = ContextVar("emulated", default=False)

_TYPES = ("bfloat16", "float16")


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    spec: AttentionSpec,
    *,
    segment_ids: jax.Array | None = None,
) -> jax.Array:
    """Causal self-attention of whole rows; arguments and result as `reference.attend`.

    Raises:
      UserError: off NVIDIA GPUs; for packed documents, types and heads that cuDNN does not take; if batch or
        heads cannot be split over the mesh.
    """
    check_platform(*target())
    if message := refusal(packed=segment_ids is not None, head_dim=q.shape[3], dtype=q.dtype.name):
        raise UserError(message)
    return per_shard(partial(_attend_here, spec=spec), q, k, v, None, name="cudnn")


def check_platform(platform: str, kind: str) -> None:
    """Checks that cuDNN runs there.

    Raises:
      UserError: if it does not.
    """
    if not is_nvidia(platform, kind) and not _emulated.get():
        raise UserError(
            f'model.attention = "cudnn" needs an NVIDIA GPU, Ampere or newer, and this program is for {platform} '
            f'({kind}); use "auto", which takes what the device has'
        )


def refusal(*, packed: bool, head_dim: int, dtype: str) -> str | None:
    """Why cuDNN cannot compute a layer on the device in question, or None if it can.

    Args:
      packed: whether rows hold several documents.
      head_dim: channels of a head.
      dtype: type of queries, keys and values.
    """
    instead = 'use "auto" or "pallas_gpu"'
    if packed:
        return f'model.attention = "cudnn" cannot keep packed documents apart (segment_ids); {instead}'
    if dtype not in _TYPES and not _emulated.get():
        return (
            f'model.compute_dtype = "{dtype}": model.attention = "cudnn" computes in {" and ".join(_TYPES)} only; '
            f"{instead}"
        )
    # Ampere and Ada stop at 128. What a name does not tell counts as newer: cuDNN itself refuses then.
    old = any(name in target()[1] for name in ("A100", "A30", "A10", "A40", "RTX A", "RTX 30", "RTX 40", "L4", "Ada"))
    widest = 128 if old else 256
    if head_dim % 8 or head_dim > widest:
        return (
            f'model.head_dim = {head_dim}: model.attention = "cudnn" takes multiples of 8 up to {widest} '
            f"on {target()[1]}; {instead}"
        )
    return None


@contextmanager
def emulated() -> Iterator[None]:
    """Inside, XLA computes what cuDNN would be asked for, on any platform and in any type: slow, for tests."""
    token = _emulated.set(True)
    try:
        yield
    finally:
        _emulated.reset(token)


def _attend_here(q: jax.Array, k: jax.Array, v: jax.Array, _: None, *, spec: AttentionSpec) -> jax.Array:
    """As `attend`, for the rows and heads of one device."""
    window = spec.window_within(q.shape[1])
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=spec.scale,
        is_causal=True,
        # Keys before the query, which is not counted here.
        local_window_size=None if window is None else (reach(window), 0),
        implementation="xla" if _emulated.get() else "cudnn",
    )
    return checkpoint_name(out, SAVED)
