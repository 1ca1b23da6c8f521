"""Throughput of `rnope prepare` beside the tokenizers library's own batch encoding, and of reading what it makes.

    python -m benchmarks.prepare WORK [--mb 64] [--repeats 3]    writes its table into docs/data.md

The corpus is the source code of the Python that runs this, its tests and installed packages included, as
JSON lines; the tokenizer is trained on a part of it. `rnope prepare` reads the file, parses, tokenizes with a
process for each core, and writes shards, checksums and index; what it is compared with encodes the same texts,
which are in memory already, with as many threads. Both are repeated, in turns. Starting processes is
given separately: it is a matter of seconds, whatever the corpus. On a machine that does other things too, the
seconds of the processor say more than those of the clock.
"""

import argparse
import json
import os
import shutil
import sysconfig
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.record import into_page, record
from rnope_jax.data import preparing, tokenizer
from rnope_jax.data.prepared import PreparedTokens
from rnope_jax.data.tokenizer import Tokenizer

#: Texts that the library is given at once; it uses all cores for them.
_BATCH = 1000

_VOCABULARY = 32_768

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--mb", type=float, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True)
    try:
        found = measure(work, int(arguments.mb * 2**20), arguments.repeats)
    finally:
        shutil.rmtree(work)
    kept = record("prepare", found).read_text()
    into_page(ROOT / "docs" / "data.md", "prepare", page(json.loads(kept)))
    print(kept)


def page(kept: dict[str, Any]) -> str:
    """What was found, as text."""
    found, machine = kept["found"], kept["machine"]
    lines = [
        f"Measured ({kept['date'].split()[0]}, `benchmarks/results/prepare.json`) on {machine['cores']} cores of an",
        f"{machine['processor']} whose load was {machine['load']:.1f} at the end, with",
        f"{found['text_mb']} MB of text in {found['documents']:,} documents, {found['tokens'] / 1e6:.1f} million",
        "tokens. Throughput of `rnope prepare` beside the library's:",
        "",
        "| beside | by the clock | without the start of processes | by processor seconds | without the start |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, ratio in found["throughput_beside"].items():
        lines.append(f"| `{name}` | " + " | ".join(f"{value:.2f}" for value in ratio.values()) + " |")
    rates = ", ".join(f"{name} {rate:.2f}" for name, rate in found["mtok_per_second"].items())
    lines += ["", f"Million tokens per second: {rates}. Reading windows, in millions of tokens per second:", ""]
    lines += ["| window | first | again | first, per processor second | again |", "| --- | --- | --- | --- | --- |"]
    for length, read in found["read_mtok"].items():
        walls = [read[name]["per_second"] for name in ("first", "again")]
        spent = [read[name]["per_processor_second"] for name in ("first", "again")]
        lines.append(f"| {int(length):,} | " + " | ".join(f"{value:,.0f}" for value in (*walls, *spent)) + " |")
    return "\n".join(lines)


def measure(work: Path, size: int, repeats: int) -> dict[str, Any]:
    """Both ways, in turns."""
    texts = corpus(size)
    file = work / "corpus.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    made_with = tokenizer.train(texts[:: max(1, len(texts) // 2000)], _VOCABULARY)
    cores = len(os.sched_getaffinity(0))
    # Even shares of work, as there are in a corpus of many parts.
    options = preparing.Options(part_bytes=max(1 << 20, file.stat().st_size // (4 * cores)))

    def ours(source: Path, out: Path, parts: preparing.Options) -> None:
        preparing.prepare([str(source)], out, made_with, parts, workers=cores)

    # What the processes take to start: the same work on nearly nothing.
    small = work / "small.jsonl"
    small.write_text("".join(json.dumps({"text": "x"}) + "\n" for _ in range(4 * cores)))
    tiny = preparing.Options(part_bytes=small.stat().st_size // (2 * cores))
    spent: dict[str, list[Spent]] = {"start": [], "prepare": [], "encode_batch": [], "encode_batch_fast": []}
    for number in range(repeats):
        spent["start"].append(measured(partial(ours, small, work / f"small{number}", tiny)))
        spent["prepare"].append(measured(partial(ours, file, work / f"out{number}", options)))
        for name in ("encode_batch", "encode_batch_fast"):
            spent[name].append(measured(partial(encode, made_with, texts, name)))
    made = PreparedTokens(work / "out0")
    tokens = len(made) - 2 * len(made.starts)
    # The least of several: whatever else runs on the machine only adds to it.
    least = {name: Spent(*map(min, zip(*found, strict=True))) for name, found in spent.items()}
    after_start = Spent(*(a - b for a, b in zip(least["prepare"], least["start"], strict=True)))
    return {
        "cores": cores,
        "documents": len(texts),
        "text_mb": round(sum(len(text.encode()) for text in texts) / 1e6, 1),
        "tokens": tokens,
        "seconds": {name: [round(one.seconds, 2) for one in found] for name, found in spent.items()},
        "processor_seconds": {name: [round(one.processor, 2) for one in found] for name, found in spent.items()},
        "mtok_per_second": {name: round(tokens / least[name].seconds / 1e6, 3) for name in spent if name != "start"},
        "throughput_beside": {
            name: {
                "seconds": round(least[name].seconds / least["prepare"].seconds, 3),
                "seconds_after_start": round(least[name].seconds / after_start.seconds, 3),
                "processor_seconds": round(least[name].processor / least["prepare"].processor, 3),
                "processor_seconds_after_start": round(least[name].processor / after_start.processor, 3),
            }
            for name in ("encode_batch", "encode_batch_fast")
        },
        "read_mtok": {str(length): reading(work / "out0", length) for length in (2048, 8192)},
    }


def corpus(size: int) -> list[str]:
    """Python files of this machine, up to a number of bytes."""
    texts, total = [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        text = path.read_bytes().decode("utf-8", "replace")
        texts.append(text)
        total += len(text.encode())
        if total >= size:
            break
    return texts


def encode(made_with: Tokenizer, texts: list[str], method: str) -> None:
    """All texts, by the library itself."""
    call = getattr(made_with.backend, method)
    for first in range(0, len(texts), _BATCH):
        call(texts[first : first + _BATCH], add_special_tokens=False)


def reading(directory: Path, length: int) -> dict[str, dict[str, float]]:
    """Windows in random order, in millions of tokens: as first read, and when every block is verified."""
    made = PreparedTokens(directory)
    order = np.random.default_rng(0).permutation(len(made) // length)

    def read() -> None:
        for index in order.tolist():
            made.read(index * length, (index + 1) * length)

    total = len(order) * length / 1e6
    found = {name: measured(read) for name in ("first", "again")}
    return {
        name: {
            "per_second": round(total / spent.seconds, 1),
            "per_processor_second": round(total / max(spent.processor, 1e-2), 1),
        }
        for name, spent in found.items()
    }


class Spent(NamedTuple):
    """What something took."""

    seconds: float
    processor: float
    """Seconds of all cores, processes that were started included."""


def measured(work: Callable[[], object]) -> Spent:
    """What a call takes."""
    began, before = time.perf_counter(), os.times()
    work()
    return Spent(time.perf_counter() - began, sum(os.times()[:4]) - sum(before[:4]))


if __name__ == "__main__":
    main()
