"""A backend beside the reference, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np

from rnope_jax.attention import attend
from tests.helpers import assert_close


def draw(batch, length, heads, kv_heads, dim=8):
    rng = np.random.default_rng(length)
    return [
        jnp.asarray(rng.normal(size=(batch, length, n, dim)), jnp.float32) for n in (heads, kv_heads, kv_heads, heads)
    ]


def forward_and_backward(spec, backend):
    """A new function each time, because how kernels run is part of the trace."""

    def run(q, k, v, gradient, segments):
        out, vjp = jax.vjp(lambda q, k, v: attend(q, k, v, spec, segment_ids=segments, backend=backend), q, k, v)
        return out, *vjp(gradient)

    return jax.jit(run)


def check_against_reference(args, segments, spec, backend):
    expected = forward_and_backward(spec, "reference")(*args, segments)
    actual = forward_and_backward(spec, backend)(*args, segments)
    for name, x, y in zip(("output", "dq", "dk", "dv"), actual, expected, strict=True):
        assert_close(x, y, 1e-5, name, floor=1.0)
