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
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from rnope_jax.layers import LayerKind

#: Where documents end in packed rows, as parts of the row: uneven, one of them short.
CUTS = (0.05, 0.3, 0.31, 0.6, 0.9)

#: Seconds that one measurement lasts at least; short calls are repeated.
AT_LEAST = 0.2


@dataclass(frozen=True)
class Case:
    """One thing to compute, in one batch row."""

    length: int
    window: int | None
    packed: bool
    heads: int
    kv_heads: int
    dim: int
    dtype: str

    @property
    def documents(self) -> list[int]:
        """Lengths of the documents of the row."""
        ends = [int(cut * self.length) for cut in CUTS] if self.packed else []
        return np.diff([0, *ends, self.length]).tolist()

    @property
    def segment_ids(self) -> np.ndarray:
        """[1, length]"""
        return np.repeat(np.arange(1, len(self.documents) + 1), self.documents)[None].astype(np.int32)

    @property
    def pairs(self) -> int:
        """Query-key pairs that are visible, per head."""
        kind = LayerKind(rope_theta=None, window=self.window)
        return sum(kind.attention_pairs(length) for length in self.documents)

    def flops(self, backward: bool) -> int:
        """Of the products of the visible pairs: scores and values, and backward five more."""
        return (7 if backward else 2) * 2 * self.heads * self.dim * self.pairs

    @property
    def square_bytes(self) -> int:
        """A float32 number for each pair of the whole square and each head."""
        return 4 * self.heads * self.length**2

    def __str__(self) -> str:
        kind = "full" if self.window is None else f"window {self.window}"
        return f"{kind}, {'packed' if self.packed else 'one document'}, {self.length:,} tokens"


def main() -> None:
    """Compares with the definition, measures all cases, writes results and figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", nargs="+", type=int, default=[2048, 4096, 8192, 16_384])
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--heads", nargs=2, type=int, default=[8, 2], metavar=("HEADS", "KV_HEADS"))
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: float32 on CPU, bfloat16 on GPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", default=["window", "full"], choices=["window", "full"])
    parser.add_argument("--documents", nargs="+", default=["one", "packed"], choices=["one", "packed"])
    parser.add_argument("--square-gib", type=float, default=6, help="most memory for what is as large as the square")
    parser.add_argument("--slow", type=float, default=30, help="leave out what needs so many times the best's time")
    arguments = parser.parse_args()
    ours, torch = Side(jax_side), Side(torch_side)
    platform, device, backends = ours.ask("device")
    on_torch = torch.ask("device")[0]
    sides = dict.fromkeys(backends, ours) | ({"torch sdpa": torch} if on_torch == platform else {})
    dtype = arguments.dtype or ("float32" if platform == "cpu" else "bfloat16")
    found: dict[str, Any] = {"device": device, "agreement": ours.ask("agreement"), "matmul_tflops": {}}
    print(json.dumps(found), flush=True)
    for name, side in {"jax": ours, "torch": torch}.items():
        found["matmul_tflops"][name] = round(side.ask("matmul", dtype) / 1e12, 3)
    found["cases"] = cases = []
    for length in arguments.lengths:
        for kind in arguments.kinds:
            for documents in arguments.documents:
                window = arguments.window if kind == "window" else None
                case = Case(length, window, documents == "packed", *arguments.heads, arguments.dim, dtype)
                cases.append(measure(case, sides, found["matmul_tflops"]["jax"], arguments))
                print(case, json.dumps(cases[-1]["contenders"]), flush=True)
                # Written as it grows: a later case may be too much for the machine.
                path = record("attention", found, variant=platform)
                figure(found, path.with_suffix(".png"))
    print(table(found))
    for side in (ours, torch):
        side.close()


def measure(case: Case, sides: dict[str, "Side"], tflops: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Times of all contenders of a case, and their ratios to the first that took part."""
    result: dict[str, Any] = {**asdict(case), "pairs": case.pairs, "rounds": arguments.rounds}
    result["limit_ms"] = {
        name: round(1e3 * case.flops(backward) / (tflops * 1e12), 3)
        for name, backward in (("forward", False), ("both", True))
    }
    left_out, first, times = {}, {}, {}
    for name, side in sides.items():
        if name in SQUARE and case.square_bytes > arguments.square_gib * 2**30:
            left_out[name] = f"would need {case.square_bytes / 2**30:.0f} GiB"
            continue
        answer = side.ask("prepare", name, case)
        if isinstance(answer, str):
            left_out[name] = answer
        else:
            first[name] = answer
    for name in list(first):
        if first[name] > arguments.slow * min(first.values()):
            left_out[name] = f"{1e3 * first.pop(name):.0f} ms in a first call"
    times = {name: {"forward": [], "both": []} for name in first}
    loads = []
    for _ in range(arguments.rounds):
        for name, kinds in times.items():
            for kind, seconds in kinds.items():
                seconds.append(sides[name].ask("time", name, kind))
        loads.append(round(os.getloadavg()[0], 1))
    for side in {id(side): side for side in sides.values()}.values():
        side.ask("forget")
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
            if name != base:
                ratios = [a / b for a, b in zip(seconds, times[base][kind], strict=True)]
                result["contenders"][name][f"{kind}_ratio"] = round(statistics.median(ratios), 2)
    return result


class Side:
    """A process that measures one side when it is told to."""

    def __init__(self, serve: Callable[[Connection], None]):
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=serve, args=(there,), daemon=True)
        self.process.start()

    def ask(self, *question: Any) -> Any:
        """Sends a question and waits for the answer."""
        self.connection.send(question)
        return self.connection.recv()

    def close(self) -> None:
        """Ends the process."""
        self.connection.send(None)
        self.process.join()


def serve(connection: Connection, answers: dict[str, Callable[..., Any]]) -> None:
    """Answers questions until there are no more."""
    while (asked := connection.recv()) is not None:
        name, *arguments = asked
        connection.send(answers[name](*arguments))


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


#: Contenders that hold an array as large as the square of the sequence.
SQUARE = ("jax.nn xla", "torch sdpa")


def draw(case: Case) -> list[np.ndarray]:
    """Queries, keys, values and the gradient of the output [1, S, heads, D]."""
    rng = np.random.default_rng(0)
    heads = (case.heads, case.kv_heads, case.kv_heads, case.heads)
    return [rng.standard_normal((1, case.length, n, case.dim), np.float32) for n in heads]


def jax_side(connection: Connection) -> None:
    """Serves measurements of rnope_jax and of `jax.nn.dot_product_attention`."""
    import jax
    import jax.numpy as jnp

    from rnope_jax.attention import AttentionSpec, attend, choose, default_scale, reference
    from rnope_jax.errors import UserError

    def device() -> tuple[str, str, list[str]]:
        here = jax.devices()[0]
        fast = ["pallas_gpu", "cudnn"] if choose("auto", None) == "pallas_gpu" else []
        return here.platform, here.device_kind, [*fast, "blockwise", "jax.nn xla"]

    def function(name: str, case: Case) -> Callable[..., Any]:
        spec = AttentionSpec(scale=default_scale(case.dim), window=case.window)

        def ours(q: Any, k: Any, v: Any, segments: Any) -> Any:
            return attend(q, k, v, spec, segment_ids=segments if case.packed else None, backend=name)

        def theirs(q: Any, k: Any, v: Any, segments: Any) -> Any:
            mask = (segments[:, None, :, None] == segments[:, None, None, :]) if case.packed else None
            past = None if case.window is None else (case.window - 1, 0)
            return jax.nn.dot_product_attention(
                q, k, v, mask=mask, scale=spec.scale, is_causal=True, local_window_size=past, implementation="xla"
            )

        return theirs if name == "jax.nn xla" else ours

    def both(run: Callable[..., Any]) -> Callable[..., Any]:
        def forward_and_backward(q: Any, k: Any, v: Any, gradient: Any, segments: Any) -> Any:
            out, vjp = jax.vjp(lambda q, k, v: run(q, k, v, segments), q, k, v)
            return out, *vjp(gradient)

        return forward_and_backward

    ready: dict[tuple[str, str], Callable[[], Any]] = {}

    def prepare(name: str, case: Case) -> float | str:
        q, k, v, gradient = (jnp.asarray(x, case.dtype) for x in draw(case))
        segments, run = jnp.asarray(case.segment_ids), function(name, case)
        try:
            forward = jax.jit(run).lower(q, k, v, segments).compile()
            backward = jax.jit(both(run)).lower(q, k, v, gradient, segments).compile()
        except UserError as error:
            return str(error)
        ready[name, "forward"] = lambda: forward(q, k, v, segments)
        ready[name, "both"] = lambda: backward(q, k, v, gradient, segments)
        jax.block_until_ready(ready[name, "forward"]())
        began = time.perf_counter()
        jax.block_until_ready(ready[name, "both"]())
        return time.perf_counter() - began

    def agreement() -> dict[str, Any]:
        """Largest differences from the definition, relative to its largest values, for output and gradients."""
        found: dict[str, Any] = {}
        for name in device()[2]:
            if name in SQUARE:
                continue
            for packed, window, dtype in ((p, w, t) for p in (True, False) for w in (None, 200) for t in _TYPES):
                case = Case(1000, window, packed, 4, 2, 64, dtype)
                arrays = [jnp.asarray(x, dtype) for x in draw(case)]
                segments = jnp.asarray(case.segment_ids)
                spec = AttentionSpec(scale=default_scale(case.dim), window=window)
                exact = [x.astype(jnp.float32) for x in arrays]

                def definition(q: Any, k: Any, v: Any, segments: Any, spec: AttentionSpec = spec) -> Any:
                    return reference.attend(q, k, v, spec, segment_ids=segments)

                with jax.default_matmul_precision("highest"):
                    expected = jax.jit(both(definition))(*exact, segments)
                try:
                    actual = jax.jit(both(function(name, case)))(*arrays, segments)
                except UserError as error:
                    found[f"{name}, {case}, {dtype}"] = str(error)
                    continue
                found[f"{name}, {case}, {dtype}"] = [
                    float(f"{jnp.abs(x.astype(jnp.float32) - y).max() / jnp.abs(y).max():.1e}")
                    for x, y in zip(actual, expected, strict=True)
                ]
        return found

    def matmul(dtype: str) -> float:
        size = 2048 if device()[0] == "cpu" else 8192
        x = jnp.ones((size, size), dtype)
        product = jax.jit(lambda x: x @ x).lower(x).compile()
        jax.block_until_ready(product(x))
        return 2 * size**3 / min(repeat(lambda: product(x), jax.block_until_ready) for _ in range(3))

    def forget() -> None:
        ready.clear()
        jax.clear_caches()

    def timed(name: str, kind: str) -> float:
        return repeat(ready[name, kind], jax.block_until_ready)

    serve(
        connection,
        {
            "device": device,
            "agreement": agreement,
            "matmul": matmul,
            "prepare": prepare,
            "time": timed,
            "forget": forget,
        },
    )


_TYPES = ("float32", "bfloat16")


def torch_side(connection: Connection) -> None:
    """Serves measurements of PyTorch's scaled_dot_product_attention with the mask that the case needs."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    here = "cuda" if torch.cuda.is_available() else "cpu"

    def device() -> tuple[str]:
        return ("gpu" if here == "cuda" else "cpu",)

    def wait(_: Any) -> None:
        if here == "cuda":
            torch.cuda.synchronize()

    ready: dict[tuple[str, str], Callable[[], Any]] = {}

    def prepare(name: str, case: Case) -> float | str:
        dtype = getattr(torch, case.dtype)
        q, k, v, gradient = (torch.tensor(x, dtype=dtype, device=here).transpose(1, 2).contiguous() for x in draw(case))
        leaves = [x.requires_grad_() for x in (q, k, v)]
        mask = None
        if case.packed or case.window is not None:
            index = torch.arange(case.length, device=here)
            mask = index[None] <= index[:, None]
            if case.window is not None:
                mask &= index[None] > index[:, None] - case.window
            if case.packed:
                segments = torch.tensor(case.segment_ids[0], device=here)
                mask &= segments[:, None] == segments[None]

        def run() -> Any:
            return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)

        def forward() -> Any:
            with torch.no_grad():
                return run()

        def both() -> Any:
            return torch.autograd.grad(run(), leaves, gradient)

        ready[name, "forward"], ready[name, "both"] = forward, both
        began = time.perf_counter()
        wait(both())
        return time.perf_counter() - began

    def matmul(dtype: str) -> float:
        size = 2048 if here == "cpu" else 8192
        x = torch.ones((size, size), dtype=getattr(torch, dtype), device=here)
        return 2 * size**3 / min(repeat(lambda: x @ x, wait) for _ in range(3))

    def timed(name: str, kind: str) -> float:
        return repeat(ready[name, kind], wait)

    serve(connection, {"device": device, "matmul": matmul, "prepare": prepare, "time": timed, "forget": ready.clear})


def table(found: dict[str, Any]) -> str:
    """The results as a table in Markdown: milliseconds of a forward and a backward pass, and of the limit."""
    names = list(dict.fromkeys(name for case in found["cases"] for name in case["contenders"]))
    lines = [["layer", "tokens", *names, "limit"], ["---"] * (len(names) + 3)]
    for case in found["cases"]:
        kind = "full" if case["window"] is None else f"window {case['window']}"
        cells = [f"{kind}, {'packed' if case['packed'] else 'one document'}", f"{case['length']:,}"]
        for name in names:
            times = case["contenders"].get(name)
            cells.append("-" if times is None else f"{times['both_ms']:,.1f}")
        lines.append([*cells, f"{case['limit_ms']['both']:,.1f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure(found: dict[str, Any], path: Path) -> None:
    """Draws time against length, with the limit."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = list(dict.fromkeys((case["window"], case["packed"]) for case in found["cases"]))
    drawn, axes = plt.subplots(
        1, len(panels), figsize=(3.6 * len(panels), 3.8), sharey=True, squeeze=False, layout="constrained"
    )
    names = list(dict.fromkeys(name for case in found["cases"] for name in case["contenders"]))
    for (window, packed), place in zip(panels, axes[0], strict=True):
        cases = [case for case in found["cases"] if (case["window"], case["packed"]) == (window, packed)]
        for number, name in enumerate(names):
            points = [(c["length"], c["contenders"][name]["both_ms"]) for c in cases if name in c["contenders"]]
            if points:
                place.plot(*zip(*points, strict=True), "o-", color=f"C{number}", markersize=3, label=name)
        limit = [(case["length"], case["limit_ms"]["both"]) for case in cases]
        place.plot(*zip(*limit, strict=True), "k--", linewidth=1, label="matrix products of visible pairs")
        title = "full" if window is None else f"window {window}"
        place.set(
            xscale="log", yscale="log", xlabel="tokens", title=f"{title}, {'packed' if packed else 'one document'}"
        )
        place.set_xscale("log", base=2)
        place.grid(alpha=0.3)
    axes[0][0].set_ylabel("ms, forward and backward")
    axes[0][0].legend(frameon=False, fontsize=7)
    drawn.savefig(path, dpi=120)
    plt.close(drawn)


if __name__ == "__main__":
    main()
