"""Cost against length, depth and batch: what runs must follow the exact count of what has to be computed.

    python -m benchmarks.scaling [--lengths 2048 ... 131072] [--contexts 2048 ... 262144] [--rounds 3]

Training steps of a small hybrid and of its twin with full attention in every layer, from 2k to 128k tokens in a row,
then with more layers and with more rows; memory and time of decoding with a filled cache, up to 256k tokens. Beside
each time stand the exact FLOPs of the step (causal, windowed; what is recomputed is not counted), and those of the
twin. Nothing else should run meanwhile.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import jax

from benchmarks.record import record
from benchmarks.sides import shape
from benchmarks.train_step import ready, recipe
from rnope_jax import flops
from rnope_jax.config import ModelConfig
from rnope_jax.evaluation import efficiency
from rnope_jax.layers import rnope_swa
from rnope_jax.xla_flags import set_environment

#: Small, so that 128k tokens of full attention take minutes and not hours on a CPU.
MODEL = ModelConfig(
    pattern=rnope_swa(window=512),
    num_layers=4,
    vocab_size=4096,
    d_model=256,
    d_ff=896,
    num_heads=4,
    num_kv_heads=1,
    head_dim=64,
    compute_dtype="float32",
    remat="attention",
    mlp_chunk=512,
)

#: The twin is measured up to here: at 128k it would take four times what the hybrid takes.
LONGEST_TWIN = 32_768


def main() -> None:
    """Measures all series, and records them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", nargs="*", type=int, default=[2**n for n in range(11, 18)])
    parser.add_argument("--contexts", nargs="*", type=int, default=[2**n for n in range(11, 19)])
    parser.add_argument("--depths", nargs="*", type=int, default=[4, 8, 16, 32])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    set_environment()
    found: dict[str, Any] = {"model": shape(MODEL)}
    twin = flops.full_twin(MODEL)
    found["decode"] = list(decode(given.contexts))
    series = {
        "depth": [(replace(MODEL, num_layers=layers), 2048, 1) for layers in given.depths],
        "batch": [(MODEL, 2048, rows) for rows in given.batches],
        "length, full attention": [(twin, length, 1) for length in given.lengths if length <= LONGEST_TWIN],
        "length": [(MODEL, length, 1) for length in given.lengths],
    }
    for name, cases in series.items():
        found[name] = []
        for case in cases:
            found[name].append(train(*case, given.rounds))
            print(name, found[name][-1], flush=True)
            record("scaling", found)


def train(model: ModelConfig, length: int, rows: int, rounds: int) -> dict[str, Any]:
    """Times of a training step, and its exact FLOPs."""
    step, state, batch = ready(recipe(model, length, {}, rows))
    temporary = step.memory_analysis().temp_size_in_bytes
    times: list[float] = []
    # The first step touches memory for the first time, which does not matter where it takes a minute.
    while len(times) <= rounds and not (times and times[0] > 60):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        times.append(time.perf_counter() - began)
    times = times[1:] or times
    seconds, needed = statistics.median(times), flops.training_flops(model, [length] * rows)
    return {
        "tokens": length,
        "rows": rows,
        "layers": model.num_layers,
        "seconds": round(seconds, 4),
        "gflop": round(needed / 1e9, 2),
        "gflop_full_attention": round(flops.training_flops(flops.full_twin(model), [length] * rows) / 1e9, 2),
        "gflop_per_second": round(needed / seconds / 1e9, 1),
        "temporary_mib": round(temporary / 2**20, 1),
        "load": round(os.getloadavg()[0], 1),
    }


def decode(contexts: list[int]) -> Iterator[dict[str, Any]]:
    """Cache and time of a token, of the hybrid and of its twin, predicted and measured."""
    for cost in efficiency.measure(MODEL, contexts, report=lambda text: print(text, flush=True)):
        yield asdict(cost)


if __name__ == "__main__":
    main()
