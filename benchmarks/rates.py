"""What a device does at most: products per second and bytes moved per second, as jax reaches them."""

import time
from collections.abc import Callable
from typing import Any


def device() -> Callable[[], tuple[str, str]]:
    """What jax finds here, platform and name, as a side."""
    import jax

    return lambda: (jax.devices()[0].platform, jax.devices()[0].device_kind)


#: Seconds that one measurement lasts at least; short calls are repeated.
AT_LEAST = 0.2


def repeat(call: Callable[[], Any], wait: Callable[[Any], Any]) -> float:
    """Seconds of one call, of as many as fill the time."""
    began = time.perf_counter()
    wait(call())
    once = time.perf_counter() - began
    count = max(1, int(AT_LEAST / once))
    began = time.perf_counter()
    for _ in range(count):
        last = call()
    wait(last)
    return (time.perf_counter() - began) / count


def matmul_size(platform: str) -> int:
    """Edge of a square product that is large for the device."""
    return 2048 if platform == "cpu" else 8192


def matmul(dtype: str) -> float:
    """Floating-point operations per second of a large product, of random numbers: equal ones heat a GPU less."""
    import jax

    size = matmul_size(jax.devices()[0].platform)
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda x: x @ x).lower(x).compile()
    jax.block_until_ready(product(x))
    return 2 * size**3 / min(repeat(lambda: product(x), jax.block_until_ready) for _ in range(3))


def copy() -> float:
    """Bytes per second of a large copy within the device's memory, those read and those written."""
    import jax
    import jax.numpy as jnp

    count = 2**26 if jax.devices()[0].platform == "cpu" else 2**30
    x = jnp.zeros(count, jnp.float32)
    negate = jax.jit(lambda x: -x).lower(x).compile()
    jax.block_until_ready(negate(x))
    return 2 * x.nbytes / min(repeat(lambda: negate(x), jax.block_until_ready) for _ in range(3))
