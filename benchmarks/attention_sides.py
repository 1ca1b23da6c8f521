"""What benchmarks/attention.py times, each side as `sides.Side` runs it: jax in one process, PyTorch in another."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks import rates
from rnope_jax.layers import LayerKind

#: Where documents end in packed rows, as parts of the row: uneven, one of them short.
CUTS = (0.05, 0.3, 0.31, 0.6, 0.9)

#: Types in which every backend is compared with the definition.
TYPES = ("float32", "bfloat16")

#: What is timed.
KINDS = ("forward", "both")


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


def holds_square(name: str, case: Case, platform: str) -> bool:
    """Whether a contender holds an array as large as the square of the sequence."""
    if name == "torch sdpa":
        # Without a mask it is FlashAttention, on a CPU a like of it.
        return platform == "cpu" or case.packed or case.window is not None
    if name == "tokamax":
        # Its kernels are for GPUs; documents are told to it by a mask.
        return platform == "cpu" or case.packed
    return name == "jax.nn xla"


#: Seconds of a first call that compiles nothing, or why there is none; for each of `KINDS`.
Prepared = dict[str, float | str]


def draw(case: Case) -> list[np.ndarray]:
    """Queries, keys, values and the gradient of the output [1, S, heads, D]."""
    rng = np.random.default_rng(0)
    heads = (case.heads, case.kv_heads, case.kv_heads, case.heads)
    return [rng.standard_normal((1, case.length, n, case.dim), np.float32) for n in heads]


def jax_side() -> Callable[..., Any]:
    """Measures rnope_jax, `jax.nn.dot_product_attention`, and tokamax's where it is installed."""
    # PyTorch has its arrays on the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax
    import jax.numpy as jnp

    from rnope_jax.attention import AttentionSpec, attend, choose, default_scale, reference
    from rnope_jax.errors import UserError

    here = jax.devices()[0]
    ready: dict[tuple[str, str], Callable[[], Any]] = {}

    def device() -> tuple[str, str, list[str]]:
        fast = ["pallas_gpu", "cudnn"] if choose("auto", None) == "pallas_gpu" else []
        installed = ["tokamax"] if find_spec("tokamax") else []
        return here.platform, here.device_kind, [*fast, "blockwise", "jax.nn xla", *installed]

    def function(name: str, case: Case) -> Callable[..., Any]:
        spec = AttentionSpec(scale=default_scale(case.dim), window=case.window)

        def ours(q: Any, k: Any, v: Any, segments: Any) -> Any:
            return attend(q, k, v, spec, segment_ids=segments if case.packed else None, backend=name)

        def theirs(q: Any, k: Any, v: Any, segments: Any) -> Any:
            mask = (segments[:, None, :, None] == segments[:, None, None, :]) if case.packed else None
            past = None if case.window is None else (case.window - 1, 0)
            if name == "tokamax":
                import tokamax
                from absl import flags

                flags.FLAGS(["tokamax"])  # or it takes the options of this program for its own
                # It chooses among its kernels itself.
                library, chosen = tokamax.dot_product_attention, None
            else:
                library, chosen = jax.nn.dot_product_attention, "xla"
            return library(
                q, k, v, mask=mask, scale=spec.scale, is_causal=True, local_window_size=past, implementation=chosen
            )

        return theirs if name in ("jax.nn xla", "tokamax") else ours

    def both(run: Callable[..., Any]) -> Callable[..., Any]:
        def forward_and_backward(q: Any, k: Any, v: Any, gradient: Any, segments: Any) -> Any:
            out, vjp = jax.vjp(lambda q, k, v: run(q, k, v, segments), q, k, v)
            return out, *vjp(gradient)

        return forward_and_backward

    def prepare(name: str, case: Case) -> Prepared:
        q, k, v, gradient = (jnp.asarray(x, case.dtype) for x in draw(case))
        segments, run = jnp.asarray(case.segment_ids), function(name, case)
        forward = jax.jit(run).lower(q, k, v, segments).compile()
        backward = jax.jit(both(run)).lower(q, k, v, gradient, segments).compile()
        ready[name, "forward"] = lambda: forward(q, k, v, segments)
        ready[name, "both"] = lambda: backward(q, k, v, gradient, segments)
        return {kind: once(ready[name, kind], jax.block_until_ready) for kind in KINDS}

    def agreement(case: Case, name: str) -> list[float] | str:
        """Largest differences from the definition, relative to its largest values, for output and gradients."""
        arrays = [jnp.asarray(x, case.dtype) for x in draw(case)]
        segments = jnp.asarray(case.segment_ids)
        spec = AttentionSpec(scale=default_scale(case.dim), window=case.window)

        def definition(q: Any, k: Any, v: Any, segments: Any) -> Any:
            return reference.attend(q, k, v, spec, segment_ids=segments)

        try:
            actual = jax.jit(both(function(name, case)))(*arrays, segments)
        except UserError as error:
            return str(error)
        with jax.default_matmul_precision("highest"):
            expected = jax.jit(both(definition))(*(x.astype(jnp.float32) for x in arrays), segments)
        return [
            float(f"{jnp.abs(x.astype(jnp.float32) - y).max() / jnp.abs(y).max():.1e}")
            for x, y in zip(actual, expected, strict=True)
        ]

    def forget() -> None:
        ready.clear()
        jax.clear_caches()

    def timed(name: str, kind: str) -> float:
        return rates.repeat(ready[name, kind], jax.block_until_ready)

    return answering(
        {
            "device": device,
            "agreement": agreement,
            "matmul": rates.matmul,
            "prepare": reporting(prepare),
            "time": timed,
            "forget": forget,
        }
    )


def torch_side() -> Callable[..., Any]:
    """Measures PyTorch: scaled_dot_product_attention with the mask that the case needs, and FlexAttention, compiled."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    from torch.nn.functional import scaled_dot_product_attention

    here = "cuda" if torch.cuda.is_available() else "cpu"
    ready: dict[tuple[str, str], Callable[[], Any]] = {}

    def device() -> tuple[str, list[str]]:
        return "gpu" if here == "cuda" else "cpu", ["torch sdpa", "torch flex"]

    def wait(_: Any) -> None:
        if here == "cuda":
            torch.cuda.synchronize()

    def seen(case: Case) -> Callable[..., Any]:
        segments = torch.tensor(case.segment_ids[0], device=here)

        def visible(b: Any, h: Any, query: Any, key: Any) -> Any:
            found = key <= query
            if case.window is not None:
                found = found & (key > query - case.window)
            return found & (segments[query] == segments[key]) if case.packed else found

        return visible

    def function(name: str, case: Case) -> Callable[..., Any]:
        if name == "torch flex":
            # Compiled, the list of blocks is made without the whole square.
            listing = torch.compile(create_block_mask) if here == "cuda" else create_block_mask
            blocks = listing(seen(case), None, None, case.length, case.length, device=here)
            flex = torch.compile(flex_attention, dynamic=False)
            return lambda q, k, v: flex(q, k, v, block_mask=blocks, enable_gqa=True)
        mask = None
        if case.packed or case.window is not None:
            index = torch.arange(case.length, device=here)
            mask = seen(case)(None, None, index[:, None], index[None])
        return lambda q, k, v: scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )

    def prepare(name: str, case: Case) -> Prepared:
        dtype = getattr(torch, case.dtype)
        q, k, v, gradient = (torch.tensor(x, dtype=dtype, device=here).transpose(1, 2).contiguous() for x in draw(case))
        run = function(name, case)

        def forward() -> Any:
            with torch.no_grad():
                return run(q, k, v)

        def both() -> Any:
            leaves = [x.detach().requires_grad_() for x in (q, k, v)]
            return torch.autograd.grad(run(*leaves), leaves, gradient)

        ready[name, "forward"], ready[name, "both"] = forward, both
        if name != "torch flex":
            return {kind: once(ready[name, kind], wait) for kind in KINDS}
        wait(forward())  # compiles
        if here == "cpu":
            return {"forward": once(forward, wait), "both": "no backward pass on CPUs"}
        wait(both())
        return {kind: once(ready[name, kind], wait) for kind in KINDS}

    def forget() -> None:
        ready.clear()
        torch.compiler.reset()
        if here == "cuda":
            torch.cuda.empty_cache()

    def matmul(dtype: str) -> float:
        size = rates.matmul_size(here)
        x = torch.randn((size, size), device=here).to(getattr(torch, dtype))
        return 2 * size**3 / min(rates.repeat(lambda: x @ x, wait) for _ in range(3))

    def timed(name: str, kind: str) -> float:
        return rates.repeat(ready[name, kind], wait)

    return answering(
        {"device": device, "matmul": matmul, "prepare": reporting(prepare), "time": timed, "forget": forget}
    )


def once(call: Callable[[], Any], wait: Callable[[Any], Any]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    wait(call())
    return time.perf_counter() - began


def answering(answers: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    """What `Side` calls: the name of a measurement, and its arguments."""
    return lambda name, *arguments: answers[name](*arguments)


def reporting(prepare: Callable[[str, Case], Prepared]) -> Callable[[str, Case], Prepared]:
    """The same, with the reason where a contender cannot compute a case, or not in this memory."""
    from rnope_jax.errors import UserError

    def reported(name: str, case: Case) -> Prepared:
        try:
            return prepare(name, case)
        except (UserError, RuntimeError) as error:
            return dict.fromkeys(KINDS, str(error).strip().splitlines()[0][:300])

    return reported
