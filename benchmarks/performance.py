"""Writes docs/performance.md and its figures from what the benchmarks left in benchmarks/results.

    python -m benchmarks.performance

Nothing on the page is typed by hand, so that it says what was measured and no more.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS

DOCS = Path(__file__).parents[1] / "docs"

INTRODUCTION = """\
# How fast it is

Written by `python -m benchmarks.performance` from `benchmarks/results/`; run a benchmark again, and the page follows.
Ratios are medians of ratios within a round, in which all sides took turns on the same machine, each in a process of
its own: above 1, rnope_jax is faster. FLOPs are those that the mask lets through (causal, windowed), without what is
recomputed. Memory is the high-water mark of a process, interpreter and libraries included.
"""

NOT_MEASURED = """\
## What was not measured

No GPU and no TPU has run any of this: there is no figure of either. What is known of them without running:
kernels and whole steps compiled ahead of time for GPUs ([one GPU host](gpu.md)), and the steps of pods compiled
for their topologies, with memory, collectives and the time that the chips need at least ([pods](pods.md)).
`python -m benchmarks.attention` and the other benchmarks run on a GPU as they are.
"""

#: A result, as `record` wrote it.
Result = dict[str, Any]


def main() -> None:
    """Writes the page and the figures."""
    (DOCS / "figures").mkdir(exist_ok=True)
    figures()
    (DOCS / "performance.md").write_text(page())


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for write, *names in SECTIONS:
        results = [result(name) for name in names]
        parts.append("\n".join(write(*results)) if all(results) else missing(names))
    return "\n".join([*parts, NOT_MEASURED])


def result(name: str) -> Result | None:
    """What a benchmark found; None if it has not run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def missing(names: Sequence[str]) -> str:
    """Of a benchmark without a result."""
    return f"`benchmarks/results/{names[0]}.json` is not there: not measured.\n"


def source(*results: Result) -> str:
    """On what, when and how something was measured."""
    said = []
    for each in results:
        machine, versions = each["machine"], each["versions"]
        peers = [f"{name} {versions[name]}" for name in ("jax", "torch", "transformers") if name in versions]
        said.append(
            f"`{each['command']}`, {each['date']}, {machine['cores']} cores of {machine['processor']}, "
            f"{machine['memory_gib']:.0f} GiB, Python {machine['python']}, {', '.join(peers)}."
        )
    return "Measured with " + "\n".join(said) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Markdown."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def sides(case: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """The sides of a case that were measured, ours first."""
    return {name: found for name, found in case.items() if isinstance(found, dict) and key in found}


def train_step(float32: Result, bfloat16: Result) -> Iterator[str]:
    """Steps beside transformers."""
    about = float32["found"]["model"]
    settings = [
        f'`{name}` with `model.remat = "{each["remat"]}"`, `model.mlp_chunk = {each["mlp_chunk"]}`, '
        f"`loss.chunk = {each['loss_chunk']}`"
        for name, each in float32["found"]["ours"].items()
    ]
    yield "## A training step on a CPU\n"
    yield (
        f"Forward, backward and AdamW of {about['parameters'] / 1e6:.0f}M parameters ({about['num_layers']} layers of "
        f"width {about['d_model']}, {about['num_heads']} heads, {about['vocab_size']:,} words, window "
        f"{about['window']}) in one row, beside transformers' Cohere2 of the same shape: {'; '.join(settings)}. Where "
        "there are two ratios, the second is to the second of ours. Programs were compiled by an earlier process; in "
        "brackets, what the process that compiled them had at most. bfloat16 is autocast there.\n"
    )
    rows = []
    for found in (float32["found"], bfloat16["found"]):
        for case in found["cases"]:
            for name, side in sides(case, "step_ms").items():
                rows.append(
                    [
                        f"{case['length']:,} {case['dtype']}",
                        name,
                        f"{side['step_ms'] / 1e3:.2f}",
                        f"{side['tokens_per_second']:,}",
                        side["model_gflops"],
                        f"{side['peak_gib']:.2f}" + _first_start(side),
                        ", ".join(map(str, side.get("time_ratio", {}).values())),
                        ", ".join(map(str, side.get("our_memory", {}).values())),
                    ]
                )
    yield table(["tokens", "", "s", "tokens/s", "GFLOP/s", "GiB", "time / ours", "our memory / theirs"], rows)
    left = [
        f"{name} at {case['length']:,} {case['dtype']} ({_reason(why)})"
        for found in (float32["found"], bfloat16["found"])
        for case in found["cases"]
        for name, why in case["left_out"].items()
    ]
    if left:
        yield f"Left out of the rounds: {'; '.join(left)}.\n"
    yield source(float32, bfloat16)
    # A length that is measured again leaves the others as they were.
    earlier = [
        f"{case['length']:,} {case['dtype']} ({case['date']})"
        for measured in (float32, bfloat16)
        for case in measured["found"]["cases"]
        if case["date"] != max(each["date"] for each in measured["found"]["cases"])
    ]
    if earlier:
        yield f"Other lengths were measured earlier: {', '.join(earlier)}.\n"


def _first_start(side: dict[str, Any]) -> str:
    return f" ({side['peak_gib_of_first_start']:.2f})" if "peak_gib_of_first_start" in side else ""


def _reason(why: dict[str, Any]) -> str:
    if "would_keep_gib" in why:
        return f"would keep {why['would_keep_gib']} GiB"
    return f"{why['seconds_of_one_step']} s, {why['peak_gib']} GiB"


def decode(measured: Result) -> Iterator[str]:
    """Prefill and decoding beside transformers."""
    yield "## Reading a prompt and continuing it, on a CPU\n"
    yield "The same model and weights, float32, greedy, the same tokens on all sides; medians of milliseconds.\n"
    rows = []
    for case in measured["found"]["cases"]:
        for name, side in sides(case, "token_ms").items():
            rows.append(
                [
                    f"{case['batch']} x {case['context']:,}",
                    name,
                    f"{side['first_token_ms']:,.0f}",
                    f"{side['token_ms']:.1f}",
                    f"{case['batch'] * 1e3 / side['token_ms']:.0f}",
                    side.get("first_token_ratio", ""),
                    side.get("token_ratio", ""),
                ]
            )
    yield table(["prompts", "", "first token", "each token", "tokens/s", "first / ours", "token / ours"], rows)
    yield source(measured)


def loss(measured: Result) -> Iterator[str]:
    """The fused loss beside whole logits."""
    found = measured["found"]
    yield "## The loss\n"
    yield (
        f"Output projection, cross-entropy and both gradients at width {found['width']}, float32: logits of "
        f"{found['chunk']} positions at a time, with their gradients, beside all logits at once.\n"
    )
    rows = [
        [
            f"{case['tokens']:,} x {case['vocabulary']:,}",
            name,
            f"{side['step_ms']:,.0f}",
            f"{side['peak_mib']:,}",
            side.get("time_ratio", ""),
            side.get("our_memory", ""),
        ]
        for case in found["cases"]
        for name, side in sides(case, "step_ms").items()
    ]
    yield table(["tokens x words", "", "ms", "MiB", "time / ours", "our memory / theirs"], rows)
    yield source(measured)


def attention(measured: Result) -> Iterator[str]:
    """Attention beside other libraries."""
    found = measured["found"]
    first = found["cases"][0]
    yield "## Attention on a CPU\n"
    yield (
        f"Forward, and both passes, {first['heads']} heads of {first['dim']} and {first['kv_heads']} of keys, "
        f"{first['dtype']}, milliseconds; in brackets, theirs / ours. The limit is the time of the visible pairs' "
        f"products at the rate of a large matrix product, {1e3 * found['matmul_tflops']['jax']:.0f} GFLOP/s here.\n"
    )
    names = list(dict.fromkeys(name for case in found["cases"] for name in case["contenders"]))
    rows = []
    for case in found["cases"]:
        kind = "full" if case["window"] is None else f"window {case['window']}"
        cells = [_passes(case["contenders"].get(name, {})) for name in names]
        what = f"{kind}, {'packed' if case['packed'] else 'one document'}"
        rows.append([what, f"{case['length']:,}", *cells, f"{case['limit_ms']['both']:,.0f}"])
    yield table(["layer", "tokens", *names, "limit"], rows)
    yield "![Time of attention against length](figures/attention_cpu.png)\n"
    yield source(measured)


def _passes(times: dict[str, Any]) -> str:
    """Milliseconds of each pass, with theirs / ours in brackets where they are another's."""
    said = []
    for name in ("forward", "both"):
        if f"{name}_ms" in times:
            ratio = f" ({times[f'{name}_ratio']}x)" if f"{name}_ratio" in times else ""
            said.append(f"{times[f'{name}_ms']:,.0f}{ratio}")
    return ", ".join(said)


def scaling(measured: Result) -> Iterator[str]:
    """Cost against length, depth and batch."""
    found = measured["found"]
    about = found["model"]
    yield "## Cost follows the pairs that are needed\n"
    yield (
        f"A step of a small hybrid ({about['num_layers']} layers of width {about['d_model']}, "
        f"{about['num_heads']} heads, window {about['window']}) beside its twin with full attention everywhere. If the "
        "rate stays, the time follows the exact count.\n"
    )
    twins = {case["tokens"]: case for case in found["length, full attention"]}
    rows = []
    for case in found["length"]:
        twin = twins.get(case["tokens"])
        rows.append(
            [
                f"{case['tokens']:,}",
                f"{case['gflop']:,.0f}",
                f"{case['seconds']:.2f}",
                case["gflop_per_second"],
                f"{case['temporary_mib']:,.0f}",
                f"{case['gflop_full_attention'] / case['gflop']:.2f}",
                f"{twin['seconds'] / case['seconds']:.2f}" if twin else "not measured",
            ]
        )
    yield table(["tokens", "GFLOP", "s", "GFLOP/s", "temporary MiB", "twin's FLOPs", "twin's time"], rows)
    yield "![Time of a step against length](figures/scaling.png)\n"
    for name in ("depth", "batch"):
        label, key = ("layers", "layers") if name == "depth" else ("rows", "rows")
        rows = [
            [case[key], f"{case['gflop']:,.0f}", f"{case['seconds']:.2f}", case["gflop_per_second"]]
            for case in found[name]
        ]
        yield table([label, "GFLOP", "s", "GFLOP/s"], rows)
    yield "Decoding with a filled cache, measured and predicted:\n"
    rows = []
    for case in found["decode"]:
        ours, full = case["measured"], case["full_measured"]
        rows.append(
            [
                f"{case['context']:,}",
                f"{ours['cache_bytes'] / 2**20:.2f}",
                f"{case['cache_bytes'] / 2**20:.2f}",
                f"{ours['cache_bytes'] / full['cache_bytes']:.3f}",
                f"{1e3 * ours['seconds_per_token']:.2f}",
                f"{ours['seconds_per_token'] / full['seconds_per_token']:.3f}",
                f"{case['read_share']:.3f}",
            ]
        )
    head = [
        "tokens",
        "cache MiB",
        "predicted",
        "of the twin's",
        "ms a token",
        "of the twin's",
        "predicted by bytes read",
    ]
    yield table(head, rows)
    yield source(measured)


def data(loader: Result, prepare: Result) -> Iterator[str]:
    """Batches and preparing."""
    yield "## Data\n"
    rows = [
        [
            case["case"],
            case["mtok_per_second"],
            case["mtok_per_processor_second"],
            f"{max(case['padding'].values()):.2%}",
        ]
        for case in loader["found"]["batches"]
    ]
    yield "Batches of half a million tokens, made of tokens on disk:\n"
    yield table(["", "million tokens/s", "per processor second", "padding"], rows)
    found = prepare["found"]
    beside = found["throughput_beside"]
    rows = [[name, each["seconds"], each["processor_seconds"]] for name, each in beside.items()]
    yield (
        f"`rnope prepare` of {found['text_mb']:,.0f} MB of text, beside `tokenizers` alone encoding lists of texts "
        "that are in memory already (throughput, ours / theirs):\n"
    )
    yield table(["", "wall", "processor"], rows)
    yield source(loader, prepare)


#: What the page says, in order: how, and of which results.
SECTIONS: tuple[tuple[Callable[..., Iterator[str]], *tuple[str, ...]], ...] = (
    (train_step, "train_step_float32", "train_step_bfloat16"),
    (attention, "attention_cpu"),
    (loss, "loss"),
    (decode, "decode"),
    (scaling, "scaling"),
    (data, "loader", "prepare"),
)


def figures() -> None:
    """Draws what the page shows."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = RESULTS / "attention_cpu.png"
    if drawn.exists():
        (DOCS / "figures" / drawn.name).write_bytes(drawn.read_bytes())
    measured, rate = result("scaling"), result("attention_cpu")
    if measured is None:
        return
    found = measured["found"]
    figure, axes = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
    for label, key, style in (("hybrid", "length", "o-"), ("full attention", "length, full attention", "s-")):
        points = [(case["tokens"], case["seconds"]) for case in found[key]]
        axes.plot(*zip(*points, strict=True), style, markersize=4, label=label)
    if rate is not None:
        peak = 1e3 * rate["found"]["matmul_tflops"]["jax"]
        limit = [(case["tokens"], case["gflop"] / peak) for case in found["length"]]
        axes.plot(*zip(*limit, strict=True), "k--", linewidth=1, label="hybrid's FLOPs at the rate of a matrix product")
    axes.set(xlabel="tokens in a row", ylabel="seconds for a training step", yscale="log")
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(DOCS / "figures" / "scaling.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
