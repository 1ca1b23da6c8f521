"""The part of benchmarks/gpu.py about decoding: the 8B shape in bfloat16 beside transformers and beside the memory.

Weights are random and each side draws its own: what they are does not change how long they take, and 16 GB of them
need not go through files. The bound is the time to read every weight and the cache of the prompt once for each token,
at the rate of a large copy. Both sides lie on the GPU at once and take turns.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import decode, rates
from benchmarks.gpu_train import gpu_host
from benchmarks.guarded import Failure, Guarded
from benchmarks.sides import shape, transformers_config, without_peer
from rnope_jax import flops
from rnope_jax.config import ModelConfig

#: Batch, tokens of the prompt.
CASES = ((1, 2048), (1, 16_384))

#: transformers' settings; what computes attention by matrices of the whole square is no peer here.
PEERS = [name for name in decode.PEERS if "eager" not in name]

TOKENS = 64
ROUNDS = 3


def measure(tiny: bool, keep: Callable[[dict[str, Any]], None]) -> None:
    """Every case, and what the memory would allow."""
    # Two programs share the GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    model = decoded(tiny)
    found: dict[str, Any] = {"model": shape(model), "dtype": model.compute_dtype}
    found["copy_gbytes_per_second"] = round(copied() / 1e9, 1)
    keep(found)
    ours = Guarded(decode.ours, Path(), "", partial(random_weights, model))
    theirs = Guarded(decode.peer, Path(), partial(random_transformer, model, "cpu" if tiny else "cuda"))
    found["cases"] = []
    try:
        for batch, context in ((1, 40),) if tiny else CASES:
            found["cases"].append(case(ours, theirs, batch, context, 8 if tiny else TOKENS))
            if "token_ms" in (own := found["cases"][-1].get(decode.OURS, {})):
                size = read_per_token(model, batch, context)
                bound = 1e3 * size / (found["copy_gbytes_per_second"] * 1e9)
                own |= {"gbytes_read": round(size / 1e9, 4), "bound_ms": round(bound, 4)}
                own["share_of_bandwidth"] = round(bound / own["token_ms"], 3)
            keep(found)
    finally:
        ours.close()
        theirs.close()


def case(ours: Guarded, theirs: Guarded, batch: int, context: int, tokens: int) -> dict[str, Any]:
    """The settings that work, compared as benchmarks/decode.py does."""
    import numpy as np

    prompts = np.ones((batch, context), np.int64)
    sides: dict[str, Guarded] = {}
    said = without_peer()
    failures = {"transformers": said} if said else {}
    for name, side in {decode.OURS: ours, **({} if said else dict.fromkeys(PEERS, theirs))}.items():
        try:
            side.measure(name, prompts, tokens)
            sides[name] = side
        except Failure as failure:
            failures[name] = str(failure)
    result: dict[str, Any] = {"batch": batch, "context": context, "failures": failures}
    if decode.OURS not in sides:
        return result
    result |= decode.compare(sides, batch, context, tokens, ROUNDS)
    for name in sides:
        # Weights differ.
        result.get(name, {}).pop("same_tokens", None)
    ratios = [result[name]["token_ratio"] for name in PEERS if "token_ratio" in result.get(name, {})]
    return result | ({"best_peer_ratio": min(ratios)} if ratios else {})


def decoded(tiny: bool) -> ModelConfig:
    """The model that is decoded."""
    if tiny:
        return replace(decode.MODEL, d_model=64, d_ff=128, num_heads=4, num_kv_heads=2, head_dim=16)
    return replace(gpu_host.model_8b(), compute_dtype="bfloat16")


def read_per_token(model: ModelConfig, batch: int, context: int) -> int:
    """Bytes of all weights, and of the caches of `batch` sequences of `context` tokens."""
    size = 2 if model.compute_dtype == "bfloat16" else 4
    return size * flops.parameters(model).total + batch * flops.cache_bytes(model, context, size)


def random_weights(config: ModelConfig) -> tuple[ModelConfig, dict[str, Any]]:
    """A model and parameters as decoding wants them, made where they will lie."""
    import jax

    from rnope_jax.inference.layout import layout
    from rnope_jax.model import describe

    wanted = layout(config)
    infos = describe(wanted)
    keys = jax.random.split(jax.random.key(0), len(infos))

    @partial(jax.jit, static_argnums=1)
    def draw(key: Any, shape: tuple[int, ...]) -> Any:
        return (0.02 * jax.random.normal(key, shape)).astype(config.compute_dtype)

    return wanted, {name: draw(key, info.shape) for key, (name, info) in zip(keys, infos.items(), strict=True)}


def random_transformer(config: ModelConfig, device: str) -> Any:
    """transformers' model of the same shape, on a device."""
    import torch
    import transformers

    theirs = transformers_config(config, max_position_embeddings=131_072)
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(theirs, dtype=getattr(torch, config.compute_dtype)).eval()


def copied() -> float:
    """Bytes per second of a large copy."""
    side = Guarded(copying)
    try:
        return side.measure()
    finally:
        side.close()


def copying() -> Callable[[], float]:
    """As a side."""
    return rates.copy
