"""Attention kernels under a mesh: each device attends for its rows of the batch and its heads."""

from collections.abc import Callable

import jax

from rnope_jax.sharding import check_divisible, partition

_QUERIES = ("batch", None, "heads", None)
_KEYS = ("batch", None, "kv_heads", None)
_TOKENS = ("batch", None)


def per_shard(
    attend_here: Callable[..., jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array | None,
    *,
    name: str,
) -> jax.Array:
    """Calls `attend_here(q, k, v, segment_ids)` for the part of each device, as the mesh in context splits them.

    XLA cannot split a kernel by itself; it would gather its arguments on every device.

    Args:
      attend_here: attention of whole rows.
      q: queries [B, S, H, D].
      k: keys [B, S, K, D].
      v: values [B, S, K, D].
      segment_ids: [B, S] or None.
      name: the backend, for messages.

    Raises:
      UserError: if batch or heads cannot be split over the mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return attend_here(q, k, v, segment_ids)
    for what, x, axes in (("queries", q, _QUERIES), ("keys", k, _KEYS)):
        check_divisible(mesh, f"{name} attention: {what}", x.shape, axes)
    queries, keys, tokens = partition(_QUERIES), partition(_KEYS), partition(_TOKENS)
    split = jax.shard_map(attend_here, in_specs=(queries, keys, keys, tokens), out_specs=queries, check_vma=False)
    return split(q, k, v, segment_ids)
