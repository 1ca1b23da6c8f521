"""The loss with the output projection, and its gradients, beside what holds all logits at once.

    python -m benchmarks.loss [--cases 2048x32000 8192x32000 2048x256000] [--width 512] [--rounds 5]

A case is TOKENSxVOCABULARY. Each side runs in a process of its own and waits while another is
measured; sides alternate, round by round. Peak memory is the high-water mark of the process, over
what it had before its first step.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.record import record
from benchmarks.sides import Side, peak, ratio

OURS = "rnope_jax"

#: Positions whose logits exist at a time.
CHUNK = 512


def main() -> None:
    """Measures every case, and records it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", nargs="+", default=["2048x32000", "8192x32000", "2048x256000"])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    found = []
    for case in arguments.cases:
        tokens, vocabulary = map(int, case.split("x"))
        found.append(compare(tokens, vocabulary, arguments.width, arguments.rounds))
        print(json.dumps(found[-1], indent=2), flush=True)
    record("loss", {"width": arguments.width, "chunk": CHUNK, "cases": found})


def compare(tokens: int, vocabulary: int, width: int, rounds: int) -> dict[str, Any]:
    """Times and memory of every side."""
    begin = {OURS: ours, "optax, whole logits": whole, "torch, whole logits": torch_whole}
    sides = {name: Side(function, tokens, vocabulary, width) for name, function in begin.items()}
    losses = {name: side.measure("step")[1] for name, side in sides.items()}  # compiles
    timed: dict[str, list[float]] = {name: [] for name in sides}
    loads = []
    for _ in range(rounds):
        for name, times in timed.items():
            times.append(sides[name].measure("step")[0])
        loads.append(round(os.getloadavg()[0], 1))
    memory = {name: side.measure("memory") for name, side in sides.items()}
    result: dict[str, Any] = {"tokens": tokens, "vocabulary": vocabulary, "rounds": rounds, "load": loads}
    for name, times in timed.items():
        result[name] = {
            "step_ms": round(1e3 * statistics.median(times), 1),
            # Three products: logits, gradient of the states, gradient of the table.
            "gflops": round(6 * tokens * vocabulary * width / statistics.median(times) / 1e9, 1),
            "peak_mib": memory[name],
            "loss": round(losses[name], 4),
        }
        if name != OURS:
            result[name] |= {
                "time_ratio": ratio(times, timed[OURS]),
                "our_memory": round(memory[OURS] / memory[name], 2),
            }
        sides[name].close()
    return result


def arrays(tokens: int, vocabulary: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States, table and targets."""
    random = np.random.default_rng(0)
    states = random.normal(size=(1, tokens, width)).astype(np.float32)
    table = (0.02 * random.normal(size=(vocabulary, width))).astype(np.float32)
    return states, table, random.integers(0, vocabulary, (1, tokens))


def ours(tokens: int, vocabulary: int, width: int) -> Callable[[str], Any]:
    """The loss of a training step: logits of a chunk exist at a time."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax.numpy as jnp

    from rnope_jax.training.loss import cross_entropy

    def loss(states: Any, table: Any, targets: Any) -> Any:
        mask = jnp.ones(targets.shape, jnp.float32)
        return cross_entropy(states, table, targets, mask, logit_factor=1.0, chunk=CHUNK).objective / targets.size

    return _jax(loss, tokens, vocabulary, width)


def whole(tokens: int, vocabulary: int, width: int) -> Callable[[str], Any]:
    """The loss as one writes it down."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import optax

    def loss(states: Any, table: Any, targets: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(states @ table.T, targets).mean()

    return _jax(loss, tokens, vocabulary, width)


def _jax(loss: Callable[..., Any], tokens: int, vocabulary: int, width: int) -> Callable[[str], Any]:
    import jax

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    given = [jax.device_put(x) for x in arrays(tokens, vocabulary, width)]
    before = peak()

    def run(what: str) -> Any:
        if what == "memory":
            return round(1024 * (peak() - before))
        began = time.perf_counter()
        value, _ = jax.block_until_ready(step(*given))
        return time.perf_counter() - began, float(value)

    return run


def torch_whole(tokens: int, vocabulary: int, width: int) -> Callable[[str], Any]:
    """The same in PyTorch."""
    import torch

    states, table, targets = (torch.tensor(x) for x in arrays(tokens, vocabulary, width))
    states.requires_grad_()
    table.requires_grad_()
    before = peak()

    def run(what: str) -> Any:
        if what == "memory":
            return round(1024 * (peak() - before))
        began = time.perf_counter()
        states.grad = table.grad = None
        value = torch.nn.functional.cross_entropy((states @ table.T)[0], targets[0])
        value.backward()
        return time.perf_counter() - began, float(value.detach())

    return run


if __name__ == "__main__":
    main()
