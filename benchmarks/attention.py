"""Attention against sequence length: our backends, jax's own function and PyTorch's, beside the physical limit.

    python -m benchmarks.attention                                        # what this machine has
    python -m benchmarks.attention --lengths 2048 8192 32768 131072 --heads 32 8 --window 4096   # on a GPU

Each case is a layer kind (window or full), rows of one document or of uneven packed ones, and a length. All
contenders of a case take turns, each side in a process of its own, so that a busy minute touches them all; a ratio
is the median of the ratios within a round. A first call of each is not timed, for it compiles. What would need more
memory than the limit, or is far slower than the best in its first call, is left out, and the result says so.

The limit is the time that the matrix products of the visible pairs would take at the rate of a large matrix product,
measured in the same process: two products per pair forward, and five more backward. Before anything is timed, every
backend is compared with the definition in float32, past twice the window and with uneven documents.

PyTorch's FlexAttention has no backward pass on CPUs; there its forward pass is timed alone.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.attention_report import figure, table
from benchmarks.attention_sides import KINDS, TYPES, Case, holds_square, jax_side, torch_side
from benchmarks.record import record
from benchmarks.sides import Side, ratio

#: Contenders that nothing is claimed of, and that are not compared with the definition.
PEERS = ("jax.nn xla", "tokamax", "torch sdpa", "torch flex")


def main() -> None:
    """Compares with the definition, measures all cases, writes results and figure."""

    def keep(found: dict[str, Any]) -> None:
        path = record("attention", found, variant=found["platform"])
        figure(found, path.with_suffix(".png"))

    print(table(measured(parsed(), keep)))


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What to measure, as the command line or these words say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", nargs="+", type=int, default=[2048, 4096, 8192, 16_384])
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--heads", nargs=2, type=int, default=[8, 2], metavar=("HEADS", "KV_HEADS"))
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--dtype", choices=TYPES, help="default: float32 on CPU, bfloat16 on GPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", default=["window", "full"], choices=["window", "full"])
    parser.add_argument("--documents", nargs="+", default=["one", "packed"], choices=["one", "packed"])
    parser.add_argument("--without", nargs="+", default=[], help="contenders that are left out")
    parser.add_argument("--unchecked", action="store_true", help="no comparison with the definition")
    parser.add_argument("--square-gib", type=float, default=6, help="most memory for what is as large as the square")
    parser.add_argument("--slow", type=float, default=30, help="leave out what needs so many times the best's time")
    return parser.parse_args(words)


def measured(arguments: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measures all cases.

    Args:
      arguments: as `parsed`.
      keep: called with what has been found up to then, case by case: a later one may be too much for the machine.
    """
    ours = Side(jax_side)
    platform, device, backends = ours.measure("device")
    sides, rates = dict.fromkeys(backends, ours), {"jax": ours}
    found: dict[str, Any] = {"platform": platform, "device": device, "matmul_tflops": {}}
    if has_torch():
        torch = Side(torch_side)
        on_torch, contenders = torch.measure("device")
        rates["torch"] = torch
        sides |= dict.fromkeys(contenders, torch) if on_torch == platform else {}
    else:
        found["without_torch"] = "PyTorch is not installed"
    sides = {name: side for name, side in sides.items() if name not in arguments.without}
    if not arguments.unchecked:
        found["agreement"] = agreement(ours, [name for name in sides if name not in PEERS])
    print(json.dumps(found), flush=True)
    dtype = arguments.dtype or ("float32" if platform == "cpu" else "bfloat16")
    for name, side in rates.items():
        found["matmul_tflops"][name] = round(side.measure("matmul", dtype) / 1e12, 3)
    found["cases"] = cases = []
    for length in arguments.lengths:
        for kind in arguments.kinds:
            for documents in arguments.documents:
                window = arguments.window if kind == "window" else None
                case = Case(length, window, documents == "packed", *arguments.heads, arguments.dim, dtype)
                cases.append(measure(case, sides, platform, found["matmul_tflops"]["jax"], arguments))
                print(case, json.dumps(cases[-1]["contenders"]), flush=True)
                keep(found)
    for side in rates.values():
        side.close()
    return found


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    from importlib.util import find_spec

    return find_spec("torch") is not None


def agreement(side: Side, backends: Sequence[str]) -> dict[str, Any]:
    """Differences of the backends from the definition, for output and gradients; or why there are none."""
    cases = [
        Case(1000, window, packed, 4, 2, 64, dtype)
        for packed in (True, False)
        for window in (None, 200)
        for dtype in TYPES
    ]
    return {
        f"{name}, {case}, {case.dtype}": side.measure("agreement", case, name) for name in backends for case in cases
    }


def measure(
    case: Case, sides: dict[str, Side], platform: str, tflops: float, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Times of all contenders of a case, and their ratios to the first that took part."""
    result: dict[str, Any] = {**asdict(case), "pairs": case.pairs, "rounds": arguments.rounds}
    result["limit_ms"] = {kind: round(1e3 * case.flops(kind == "both") / (tflops * 1e12), 3) for kind in KINDS}
    left_out: dict[str, Any] = {}
    first: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    for name, side in sides.items():
        if holds_square(name, case, platform) and case.square_bytes > arguments.square_gib * 2**30:
            left_out[name] = f"would need {case.square_bytes / 2**30:.0f} GiB"
            continue
        for kind, answer in side.measure("prepare", name, case).items():
            if isinstance(answer, str):
                left_out[name] = answer
            else:
                first[kind][name] = answer
    times: dict[str, dict[str, list[float]]] = {}
    for kind, seconds in first.items():
        for name, once in seconds.items():
            if once > arguments.slow * min(seconds.values()):
                left_out[name] = f"{1e3 * once:.0f} ms in a first call"
            else:
                times.setdefault(name, {})[kind] = []
    loads = []
    for _ in range(arguments.rounds):
        for name, kinds in times.items():
            for kind, seconds in kinds.items():
                seconds.append(sides[name].measure("time", name, kind))
        loads.append(round(os.getloadavg()[0], 1))
    for side in {id(side): side for side in sides.values()}.values():
        side.measure("forget")
    result |= {"load": loads, "left_out": left_out, "contenders": {}}
    base = next(iter(times), None)
    for name, kinds in times.items():
        result["contenders"][name] = {}
        for kind, seconds in kinds.items():
            best = min(seconds)
            result["contenders"][name] |= {
                f"{kind}_ms": round(1e3 * statistics.median(seconds), 3),
                f"{kind}_ms_least": round(1e3 * best, 3),
                f"{kind}_tflops": round(case.flops(kind == "both") / best / 1e12, 3),
            }
            if name != base and kind in times[base]:
                result["contenders"][name][f"{kind}_ratio"] = ratio(seconds, times[base][kind])
    return result


if __name__ == "__main__":
    main()
