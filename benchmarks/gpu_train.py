"""The part of benchmarks/gpu.py about training steps: shares of the matrix-product ceiling, and transformers.

The stack is that of Command R7B with as many layers as one GPU of 80 GB trains with AdamW, in float32 with products in
bfloat16, one row of one document. What fits was found ahead of time (`LAYERS`); where it does not after all, one
period of the pattern less is tried. Beside transformers both sides have the same eight layers and a vocabulary of 32k
tokens: with 256k its logits alone would not fit. A GPU holds one of them at a time, so settings follow each other
and do not take turns.
"""

import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import rates
from benchmarks.guarded import Failure, Guarded
from benchmarks.sides import MODEL, shape, without_peer
from benchmarks.train_step import ours, peer
from rnope_jax import flops
from rnope_jax.config import ModelConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "configs"))
import gpu_host  # (as train.py finds it: among its neighbours)

#: Layers of the 8B shape that fit at each length: `python -m benchmarks.gpu_memory` says so.
LAYERS = {8192: 8, 32_768: 8, 131_072: 4}

#: Where transformers needs gradient checkpointing: without it a layer keeps some 200 KB for each token.
CHECKPOINTED = 32_768

#: transformers' settings: attention, compiled. Each is tried with gradient checkpointing if memory is short without.
PEERS = {
    "transformers sdpa, compiled": ("sdpa", True),
    "transformers flex_attention": ("flex_attention", False),
    "transformers flash_attention_2": ("flash_attention_2", False),
    "transformers sdpa": ("sdpa", False),
}

#: Of our model.
SETTINGS = {"compute_dtype": "bfloat16", "remat": "attention"}

#: Steps of which the median is taken.
STEPS = 5


def measure_ours(tiny: bool, keep: Callable[[dict[str, Any]], None]) -> None:
    """Steps of rnope_jax at every length."""
    found: dict[str, Any] = {"matmul_tflops": round(measured_ceiling(tiny) / 1e12, 3), "cases": []}
    keep(found)
    for length, layers in {64: 8, 256: 4}.items() if tiny else LAYERS.items():
        while layers:
            model = stack(layers, tiny)
            case = {"length": length, "model": shape(model)} | steps(ours, length, SETTINGS, model, "")
            if "step_ms" in case:
                done = flops.training_flops(model, [length])
                case["tflops"] = done / case["step_ms"] / 1e9
                case["share_of_matmul"] = round(case["tflops"] / found["matmul_tflops"], 3)
            found["cases"].append(case)
            keep(found)
            layers = 0 if "step_ms" in case else layers - len(model.pattern)


def measure_beside(length: int, tiny: bool, keep: Callable[[dict[str, Any]], None]) -> None:
    """Steps of rnope_jax and of transformers on the same stack."""
    device, rows = ("cpu", length // 128) if tiny else ("cuda", length)
    model = replace(stack(8, tiny), vocab_size=256 if tiny else 32_768)
    settings = {"rnope_jax": steps(ours, rows, SETTINGS, model, "")}
    found: dict[str, Any] = {"length": rows, "model": shape(model), "settings": settings}
    keep(found)
    if said := without_peer():
        settings["transformers"] = {"failure": said}
        keep(found)
        return
    for name, setting in PEERS.items():
        for checkpointing in (True,) if length >= CHECKPOINTED else (False, True):
            result = steps(peer, rows, "bfloat16", *setting, checkpointing, model, device)
            settings[name] = result | {"checkpointing": checkpointing}
            theirs = [each["step_ms"] for name, each in settings.items() if name in PEERS and "step_ms" in each]
            if theirs and "step_ms" in settings["rnope_jax"]:
                found["best_peer_ratio"] = round(min(theirs) / settings["rnope_jax"]["step_ms"], 2)
            keep(found)
            if "memory" not in result.get("failure", "").lower():
                break


def stack(layers: int, tiny: bool) -> ModelConfig:
    """So many layers of the 8B shape; a small one to try the program."""
    model = gpu_host.one_gpu_8b_layers().model
    if tiny:
        model = replace(MODEL, d_model=64, d_ff=128, num_heads=4, head_dim=16, vocab_size=256)
    return replace(model, num_layers=layers)


def steps(begin: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """The median of some steps in a process of its own, or why there are none."""
    side = Guarded(begin, *arguments)
    try:
        side.measure("step")  # compiles
        timed = [side.measure("step") for _ in range(STEPS)]
        peak = side.measure("peak")
    except Failure as failure:
        return {"failure": str(failure)}
    finally:
        side.close()
    seconds = [each for each, _ in timed]
    return {
        "step_ms": round(1e3 * statistics.median(seconds), 2),
        "step_ms_least": round(1e3 * min(seconds), 2),
        "tokens_per_second": round(arguments[0] / statistics.median(seconds)),
        "peak_gib": peak,
        "last_loss": round(timed[-1][1], 4),
    }


def measured_ceiling(tiny: bool) -> float:
    """Floating-point operations per second of a large product."""
    side = Guarded(ceiling)
    try:
        return side.measure("float32" if tiny else "bfloat16")
    finally:
        side.close()


def ceiling() -> Callable[[str], float]:
    """As a side."""
    return rates.matmul
